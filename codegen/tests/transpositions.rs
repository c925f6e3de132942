//! Copies that transpose, against the interpreter: every instruction set, any number of threads.

mod common;

use common::{Case, Random, instruction_sets, options};
use gradc_codegen::{Engine, Pool};
use gradc_ir::ops::{Op, Slice, Transpose};
use gradc_ir::types::TensorType;

fn check(op: &Op, shape: &[usize], engine: Engine) {
    let ty = TensorType::f32(shape.to_vec());
    let inputs = [Random(3).tensor(&ty, -1.0..1.0)];
    let expected = op.eval(&[&inputs[0]]).expect("the operand fits")[0].to_host();
    let case = Case::of_op(op, &[ty]).expect("a copy is not expanded");
    for isa in instruction_sets() {
        let executable = case.compile(&options(isa));
        assert_eq!(executable.engines(0), [Some(engine)], "{op} of {shape:?}");
        for threads in [1, 2, 4] {
            let found = case.run(&executable, &inputs, &Pool::new(threads).expect("threads start"));
            assert_eq!(found[0], expected, "{op} of {shape:?} with {isa:?} on {threads} threads");
        }
    }
}

fn transpose(perm: &[usize]) -> Op {
    Transpose { perm: perm.to_vec() }.into()
}

#[test]
fn matrices_of_whole_squares() {
    check(&transpose(&[1, 0]), &[512, 128], Engine::Transpose);
    check(&transpose(&[1, 0]), &[72, 83], Engine::Transpose);
    check(&transpose(&[1, 0]), &[8, 517], Engine::Transpose);
}

#[test]
fn axes_around_and_between() {
    check(&transpose(&[0, 2, 1]), &[7, 24, 30], Engine::Transpose);
    check(&transpose(&[2, 1, 0]), &[16, 15, 19], Engine::Transpose);
    check(&transpose(&[3, 1, 0, 2]), &[4, 3, 80, 9], Engine::Transpose);
}

#[test]
fn images_of_any_number_of_channels() {
    for channels in 2..20 {
        check(&transpose(&[0, 2, 3, 1]), &[6, channels, 17, 23], Engine::Transpose);
        check(&transpose(&[0, 3, 1, 2]), &[6, 17, 23, channels], Engine::Transpose);
    }
}

#[test]
fn rows_of_any_length() {
    check(&transpose(&[1, 0]), &[67, 77], Engine::Transpose);
    check(&transpose(&[1, 0]), &[3, 9000], Engine::Transpose);
    check(&transpose(&[1, 0]), &[9000, 3], Engine::Transpose);
    check(&transpose(&[0, 3, 2, 1]), &[5, 3, 19, 21], Engine::Transpose);
}

#[test]
fn loops_of_the_operand_that_do_not_meet_in_the_result_are_not_merged() {
    let slice = Slice { start: vec![0, 2, 0, 1], limit: vec![3, 35, 29, 4], stride: vec![1, 1, 1, 1] };
    check(&slice.into(), &[3, 40, 29, 5], Engine::Loops);
    check(&transpose(&[2, 0, 1, 3]), &[6, 30, 40, 1], Engine::Transpose);
    check(&transpose(&[1, 3, 0, 2]), &[6, 8, 20, 9], Engine::Transpose);
}

#[test]
fn parts_of_a_matrix() {
    let slice = Slice { start: vec![5, 3], limit: vec![29, 40], stride: vec![1, 1] };
    check(&slice.into(), &[40, 50], Engine::Loops);
}

#[test]
fn what_is_small_or_in_order_stays_a_loop() {
    check(&transpose(&[1, 0]), &[30, 64], Engine::Loops);
    check(&transpose(&[0, 2, 1]), &[1000, 5, 5], Engine::Loops);
    check(&transpose(&[1, 0, 2]), &[16, 16, 40], Engine::Loops);
}
