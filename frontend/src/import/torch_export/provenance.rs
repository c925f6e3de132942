//! Where a node comes from: the user's line, the layer, the op.

use super::schema::Node;
use gradc_ir::diagnostic::Loc;

/// The place of a node.
pub fn loc(node: &Node) -> Loc {
    let (file, line) = node.metadata.get("stack_trace").and_then(|trace| user_line(trace)).unwrap_or_default();
    let layer = node.metadata.get("nn_module_stack").map(|stack| layer(stack)).unwrap_or_default();
    let source_op = node.target.strip_prefix("torch.ops.").unwrap_or(&node.target).to_string();
    Loc { file, line, layer, source_op, backward: false }
}

/// File and line of the innermost frame that is not PyTorch's own; of the innermost one if all are.
fn user_line(trace: &str) -> Option<(String, u32)> {
    let frames: Vec<(&str, u32)> = trace.lines().filter_map(frame).collect();
    let is_torch = |file: &str| file.starts_with("torch/") || file.contains("/torch/");
    let (file, line) = frames.iter().rev().find(|(file, _)| !is_torch(file)).or(frames.last())?;
    Some((file.to_string(), *line))
}

/// `File "net.py", line 12, in forward`
fn frame(text: &str) -> Option<(&str, u32)> {
    let (file, rest) = text.trim_start().strip_prefix("File \"")?.split_once("\", line ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((file, digits.parse().ok()?))
}

/// The innermost entry's path: `key,layers.0,torch.nn.Linear` of entries separated by `;`.
fn layer(stack: &str) -> String {
    stack.rsplit(';').next().and_then(|entry| entry.split(',').nth(1)).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_at_the_users_line() {
        let trace = "File \"zoo.py\", line 67, in forward\n    x = self.bn(x)\n  File \"torch/nn/modules/batchnorm.py\", line 190, in forward\n    pass";
        assert_eq!(user_line(trace), Some(("zoo.py".into(), 67)));
        assert_eq!(user_line("File \"/lib/torch/nn/f.py\", line 3, in f"), Some(("/lib/torch/nn/f.py".into(), 3)));
        assert_eq!(user_line("nonsense"), None);
        assert_eq!(layer("L__self__,,zoo.Net;L__self__bn,bn,torch.nn.BatchNorm2d"), "bn");
    }
}
