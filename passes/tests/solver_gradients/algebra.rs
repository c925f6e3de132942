//! Dense matrices, small and obvious.

/// A dense matrix by rows.
pub type Matrix = Vec<Vec<f64>>;

/// Values between −1 and 1 that no symmetry hides.
pub fn noise(count: usize, seed: usize) -> Vec<f64> {
    (0..count).map(|k| ((k * 13 + seed * 29 + 1) as f64 * 0.7).sin()).collect()
}

pub fn matrix(rows: usize, columns: usize, seed: usize) -> Matrix {
    noise(rows * columns, seed).chunks(columns).map(<[f64]>::to_vec).collect()
}

pub fn flat(matrix: &Matrix) -> Vec<f64> {
    matrix.concat()
}

/// `aᵀa / rows + diagonal · I`.
pub fn gram(a: &Matrix, diagonal: f64) -> Matrix {
    let n = a[0].len();
    let entry = |i: usize, j: usize| a.iter().map(|row| row[i] * row[j]).sum::<f64>() / a.len() as f64;
    (0..n).map(|i| (0..n).map(|j| entry(i, j) + if i == j { diagonal } else { 0.0 }).collect()).collect()
}

/// The solution of a linear system, by Gaussian elimination with pivots.
pub fn solve(mut a: Matrix, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs())).expect("not empty");
        a.swap(k, pivot);
        b.swap(k, pivot);
        for i in k + 1..n {
            let factor = a[i][k] / a[k][k];
            let above = a[k].clone();
            a[i].iter_mut().zip(above).skip(k).for_each(|(x, y)| *x -= factor * y);
            b[i] -= factor * b[k];
        }
    }
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| a[k][j] * b[j]).sum();
        b[k] = (b[k] - known) / a[k][k];
    }
    b
}
