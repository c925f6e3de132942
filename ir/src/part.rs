//! Parts of tensors: what trains of a parameter that does not train as a whole.

use std::fmt;

/// Everything of a tensor at some indices of one axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The axis.
    pub axis: usize,
    /// Indices of that axis, ascending and distinct.
    pub indices: Vec<usize>,
}

impl Part {
    /// Shape of the part of a tensor of shape `whole`.
    pub fn shape(&self, whole: &[usize]) -> Vec<usize> {
        let extent = |(d, &n): (usize, &usize)| if d == self.axis { self.indices.len() } else { n };
        whole.iter().enumerate().map(extent).collect()
    }
}

impl fmt::Display for Part {
    /// `[:,0..4+7]` for indices 0, 1, 2, 3 and 7 of axis 1.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let neighbours = self.indices.chunk_by(|a, b| a + 1 == *b);
        let run = |run: &[usize]| match run {
            [one] => one.to_string(),
            several => format!("{}..{}", several[0], several[several.len() - 1] + 1),
        };
        let runs: Vec<String> = neighbours.map(run).collect();
        write!(f, "[{}{}]", ":,".repeat(self.axis), runs.join("+"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_runs_of_indices() {
        let part = |axis, indices: &[usize]| Part { axis, indices: indices.to_vec() }.to_string();
        assert_eq!(part(0, &[3]), "[3]");
        assert_eq!(part(1, &[0, 1, 2, 3, 7]), "[:,0..4+7]");
        assert_eq!(part(2, &[1, 3, 4]), "[:,:,1+3..5]");
    }
}
