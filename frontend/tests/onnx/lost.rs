//! Parameters that an exporter has computed or merged.

use super::files::{floats, load, model, node};
use gradc_frontend::import::onnx::proto::{ModelProto, NodeProto, StringStringEntryProto, TensorProto};
use gradc_ir::graph::Role;

const RULES: &str = "pkg.onnxscript.rewriter.rule_name";
const SIGNATURE: &str = "pkg.torch.export.ExportedProgram.graph_signature";

/// A chain of additions of the tensors, each in a layer of its own, with the dynamo exporter's list of parameters.
fn exported(added: &[&str], tensors: Vec<TensorProto>, listed: &[&str]) -> ModelProto {
    let step = |(k, name): (usize, &&str)| -> NodeProto {
        let from = if k == 0 { "x".to_string() } else { format!("h{k}") };
        let to = if k + 1 == added.len() { "y".to_string() } else { format!("h{}", k + 1) };
        NodeProto { name: format!("/layer{k}/Add"), ..node("Add", &[&from, name], &[&to]) }
    };
    let mut file = model(added.iter().enumerate().map(step).collect(), tensors);
    let line = |name: &&str| format!("p_{}: PARAMETER target='{name}'\n", name.replace('.', "_"));
    let entry = StringStringEntryProto { key: SIGNATURE.into(), value: listed.iter().map(line).collect() };
    let graph = file.graph.as_mut().expect("the model has a graph");
    graph.metadata_props = if listed.is_empty() { vec![] } else { vec![entry] };
    file
}

fn lost(added: &[&str], tensors: Vec<TensorProto>, listed: &[&str]) -> Vec<String> {
    let model = load(&exported(added, tensors, listed)).unwrap_or_else(|e| panic!("{e}"));
    model.lost.into_iter().collect()
}

#[test]
fn a_computed_constant_shows_that_missing_parameters_are_lost() {
    let tensors = || vec![floats("a", &[3], &[1.0, 2.0, 3.0]), floats("val_0", &[3], &[3.0, 2.0, 1.0])];
    assert_eq!(lost(&["a", "val_0"], tensors(), &["a", "b"]), ["b"]);
    let model = load(&exported(&["a", "val_0"], tensors(), &["a", "b"])).unwrap();
    let parameters = model.train.inputs().iter().filter(|i| i.role == Role::Parameter).map(|i| i.name.as_str());
    assert_eq!(parameters.collect::<Vec<_>>(), ["a"], "what the exporter computed does not train");
}

#[test]
fn an_even_tensor_of_several_layers_was_several() {
    let even = || vec![floats("a", &[3], &[1.0; 3])];
    assert_eq!(lost(&["a", "a"], even(), &["a", "b"]), ["b"]);
    assert!(lost(&["a"], even(), &["a", "b"]).is_empty(), "`b` is not used");
    let mut twice = exported(&["a"], even(), &["a", "b"]);
    twice.graph.as_mut().expect("the model has a graph").node[0] = node("Where", &["mask", "a", "a"], &["y"]);
    twice.graph.as_mut().expect("the model has a graph").node.insert(0, node("IsNaN", &["x"], &["mask"]));
    assert!(load(&twice).unwrap_or_else(|e| panic!("{e}")).lost.contains("b"), "one node reads it as two");
    let tied = vec![floats("a", &[3], &[1.0, 2.0, 3.0])];
    assert!(lost(&["a", "a"], tied, &["a", "b"]).is_empty(), "`b` is `a`");
}

#[test]
fn a_fused_node_has_taken_the_parameters_of_others() {
    let made_by = |rules: &str| {
        let mut file = exported(&["a"], vec![floats("a", &[3], &[1.0, 2.0, 3.0])], &["a", "bn.weight"]);
        let note = StringStringEntryProto { key: RULES.into(), value: rules.into() };
        file.graph.as_mut().expect("the model has a graph").node[0].metadata_props.push(note);
        load(&file).unwrap_or_else(|e| panic!("{e}")).lost
    };
    assert!(made_by("RemoveOptionalBiasFromConv, FuseBatchNormIntoConv").contains("bn.weight"));
    assert!(made_by("RemoveOptionalBiasFromConv").is_empty(), "what was left out was no parameter");
}

#[test]
fn the_older_exporter_names_what_it_has_folded_after_its_reader() {
    let tensors = || vec![floats("onnx::Add_7", &[3], &[1.0, 2.0, 3.0])];
    assert_eq!(lost(&["onnx::Add_7"], tensors(), &[]), ["onnx::Add_7"]);
}
