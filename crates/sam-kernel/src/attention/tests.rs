//! Comparison with the definition in f64: whole score maps, explicit padding.

use super::{CrossAttention, CrossInputs, GridAttention, GridInputs, GridSizes, OutputGrad, Tables};
use crate::testing::{check, values};

/// Tolerances, relative to the largest value.
const FORWARD: f64 = 2e-6;
const BACKWARD: f64 = 1e-5;

/// Attention of one head by its definition, with `terms` added to the scaled products.
struct Exact {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    p: Vec<f64>,
    channels: usize,
}

impl Exact {
    fn new([q, k, v]: [Vec<f64>; 3], terms: &[f64], channels: usize) -> Self {
        let (n, m) = (q.len() / channels, k.len() / channels);
        let mut p = terms.to_vec();
        for i in 0..n {
            let row = &mut p[i * m..][..m];
            for (j, score) in row.iter_mut().enumerate() {
                let dot: f64 = (0..channels).map(|c| q[i * channels + c] * k[j * channels + c]).sum();
                *score += dot / (channels as f64).sqrt();
            }
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter_mut().for_each(|score| *score = (*score - largest).exp());
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|score| *score /= sum);
        }
        Self { q, k, v, p, channels }
    }

    fn m(&self) -> usize {
        self.k.len() / self.channels
    }

    fn out(&self) -> Vec<f64> {
        let (c, m) = (self.channels, self.m());
        let at = |place: usize| (0..m).map(|j| self.p[place / c * m + j] * self.v[j * c + place % c]).sum();
        (0..self.q.len()).map(at).collect()
    }

    /// Gradients of q, k, v and the terms.
    fn grads(&self, d_out: &[f64]) -> [Vec<f64>; 4] {
        let (c, m) = (self.channels, self.m());
        let scale = (c as f64).powf(-0.5);
        let mut grads =
            [vec![0.0; self.q.len()], vec![0.0; self.k.len()], vec![0.0; self.v.len()], vec![0.0; self.p.len()]];
        for i in 0..self.q.len() / c {
            let d_p: Vec<f64> = (0..m).map(|j| (0..c).map(|l| d_out[i * c + l] * self.v[j * c + l]).sum()).collect();
            let mean: f64 = (0..m).map(|j| self.p[i * m + j] * d_p[j]).sum();
            for j in 0..m {
                let p = self.p[i * m + j];
                let d_s = p * (d_p[j] - mean);
                grads[3][i * m + j] = d_s;
                for l in 0..c {
                    grads[2][j * c + l] += p * d_out[i * c + l];
                    grads[0][i * c + l] += scale * d_s * self.k[j * c + l];
                    grads[1][j * c + l] += scale * d_s * self.q[i * c + l];
                }
            }
        }
        grads
    }
}

#[test]
fn cross_attention_matches_the_definition() {
    for (objects, queries, keys, heads, channels, size) in [
        (2, 3, 5, 2, 4, 1.0),
        (1, 1, 1, 1, 1, 1.0),
        (1, 7, 1100, 2, 16, 1.0),
        (2, 300, 7, 1, 3, 1.0),
        (1, 130, 530, 1, 8, 30.0),
        // Few keys, few queries, both; heads of one vector and of two; a rest of rows and of tokens.
        (2, 301, 7, 2, 16, 1.0),
        (1, 130, 20, 2, 32, 8.0),
        (2, 20, 301, 2, 16, 8.0),
        (1, 64, 257, 1, 32, 1.0),
        (1, 300, 64, 1, 16, 1.0),
        (3, 5, 6, 2, 16, 1.0),
        (1, 70, 90, 2, 16, 1.0),
    ] {
        let sizes = CrossAttention { objects, queries, keys, heads, channels };
        let width = heads * channels;
        let large = |n, seed| values(n, seed).iter().map(|x| x * size).collect::<Vec<f32>>();
        let (q, k, v) =
            (large(objects * queries * width, 1), large(objects * keys * width, 2), values(objects * keys * width, 3));
        let d_out = values(q.len(), 4);
        let mut absent: Vec<bool> = values(objects * keys, 5).iter().map(|&x| x > 0.3).collect();
        (0..objects).for_each(|object| absent[object * keys] = false);
        // A whole first tile may be masked out.
        let all_but_two: Vec<bool> = (0..objects * keys).map(|at| at % keys + 2 < keys).collect();
        for absent in [None, Some(absent.as_slice()), Some(all_but_two.as_slice())] {
            let inputs = CrossInputs { q: &q, k: &k, v: &v, q_index: None, kv_index: None, absent };
            let output = sizes.forward(inputs);
            let out = &output.out;
            let grads = sizes.backward(inputs, OutputGrad { out, log_sums: &output.log_sums, d_out: &d_out });
            for object in 0..objects {
                for head in 0..heads {
                    let pick = |values: &[f32], n: usize| -> Vec<f64> {
                        let rows = values[object * n * width..][..n * width].chunks_exact(width);
                        rows.flat_map(|row| row[head * channels..][..channels].iter().map(|&x| f64::from(x))).collect()
                    };
                    let narrow = |values: &[f32], n: usize| -> Vec<f32> {
                        let rows = values[object * n * width..][..n * width].chunks_exact(width);
                        rows.flat_map(|row| row[head * channels..][..channels].to_vec()).collect()
                    };
                    let term = |j: usize| {
                        if absent.is_some_and(|absent| absent[object * keys + j]) { f64::NEG_INFINITY } else { 0.0 }
                    };
                    let terms: Vec<f64> = (0..queries * keys).map(|at| term(at % keys)).collect();
                    let exact = Exact::new([pick(&q, queries), pick(&k, keys), pick(&v, keys)], &terms, channels);
                    check("out", &narrow(out, queries), &exact.out(), FORWARD * f64::from(size));
                    let [d_q, d_k, d_v, _] = exact.grads(&pick(&d_out, queries));
                    check("q", &narrow(&grads.q, queries), &d_q, BACKWARD * f64::from(size));
                    check("k", &narrow(&grads.k, keys), &d_k, BACKWARD * f64::from(size));
                    check("v", &narrow(&grads.v, keys), &d_v, BACKWARD * f64::from(size));
                }
            }
        }
    }
}

/// Shared sequences have the result of copies of them, and the sum of the copies' gradients.
#[test]
fn shared_sequences_equal_copies() {
    for (queries, keys, channels) in [(5, 18, 4), (5, 18, 16), (5, 131, 16), (131, 5, 32)] {
        shared_sequences_equal_their_copies(queries, keys, channels);
    }
}

fn shared_sequences_equal_their_copies(queries: usize, keys: usize, channels: usize) {
    let (index, heads) = ([1, 0, 1], 2);
    let sizes = CrossAttention { objects: 3, queries, keys, heads, channels };
    let width = heads * channels;
    let (q, k, v) = (values(2 * queries * width, 1), values(2 * keys * width, 2), values(2 * keys * width, 3));
    let d_out = values(3 * queries * width, 4);
    let copies = |values: &[f32]| -> Vec<f32> {
        let n = values.len() / 2;
        index.iter().flat_map(|&image| values[image * n..][..n].to_vec()).collect()
    };
    let sums = |values: &[f32]| -> Vec<f64> {
        let n = values.len() / 3;
        let at = |object: usize, place: usize| f64::from(values[object * n + place]);
        (0..2 * n).map(|p| if p < n { at(1, p) } else { at(0, p - n) + at(2, p - n) }).collect()
    };
    let (q_3, k_3, v_3) = (copies(&q), copies(&k), copies(&v));
    let single = CrossInputs { q: &q_3, k: &k_3, v: &v_3, q_index: None, kv_index: None, absent: None };
    let expected = sizes.forward(single);
    let (out, log_sums) = (&expected.out, &expected.log_sums);
    let expected_grads = sizes.backward(single, OutputGrad { out, log_sums, d_out: &d_out });
    let shared = CrossInputs { q: &q, k: &k, v: &v, q_index: Some(&index), kv_index: Some(&index), absent: None };
    assert_eq!(sizes.forward(shared).out, expected.out);
    let grads = sizes.backward(shared, OutputGrad { out, log_sums, d_out: &d_out });
    check("q", &grads.q, &sums(&expected_grads.q), 1e-6);
    check("k", &grads.k, &sums(&expected_grads.k), 1e-6);
    check("v", &grads.v, &sums(&expected_grads.v), 1e-6);
}

/// Output and gradients of a grid attention by the definition, window by window.
struct ExactGrid<'a> {
    sizes: GridSizes,
    inputs: GridInputs<'a>,
    d_out: &'a [f32],
    out: Vec<f64>,
    d_qkv: Vec<f64>,
    d_bias: Vec<f64>,
    d_rows: Vec<f64>,
    d_columns: Vec<f64>,
}

impl<'a> ExactGrid<'a> {
    fn new(sizes: GridSizes, inputs: GridInputs<'a>, d_out: &'a [f32]) -> Self {
        let zeros = |n: usize| vec![0f64; n];
        let (rows, columns) = inputs.tables.map_or((0, 0), |tables| (tables.rows.len(), tables.columns.len()));
        let mut exact = Self {
            sizes,
            inputs,
            d_out,
            out: zeros(d_out.len()),
            d_qkv: zeros(inputs.qkv.len()),
            d_bias: zeros(inputs.bias.len()),
            d_rows: zeros(rows),
            d_columns: zeros(columns),
        };
        let ([height, width], [rows, columns]) = (sizes.grid, exact.attended());
        for image in 0..sizes.images {
            for row in (0..height).step_by(rows) {
                for column in (0..width).step_by(columns) {
                    (0..sizes.heads).for_each(|head| exact.add(image, [row, column], head));
                }
            }
        }
        exact
    }

    fn attended(&self) -> [usize; 2] {
        if self.sizes.window == 0 { self.sizes.grid } else { [self.sizes.window; 2] }
    }

    /// Adds one head of the window at `origin`.
    fn add(&mut self, image: usize, origin: [usize; 2], head: usize) {
        let GridSizes { grid: [height, width], heads, channels, .. } = self.sizes;
        let (n_values, attended) = (3 * heads * channels, self.attended());
        let cells: Vec<[usize; 2]> =
            (0..attended[0] * attended[1]).map(|at| [at / attended[1], at % attended[1]]).collect();
        let m = cells.len();
        // Token of a cell; none in the padding.
        let token = |[row, column]: [usize; 2]| {
            let (row, column) = (origin[0] + row, origin[1] + column);
            (row < height && column < width).then_some((image * height + row) * width + column)
        };
        let (qkv, bias) = (self.inputs.qkv, self.inputs.bias);
        let pick = |part: usize| -> Vec<f64> {
            let of_cell = |&cell: &[usize; 2]| {
                let values = token(cell).map_or(bias, |token| &qkv[token * n_values..][..n_values]);
                values[(part * heads + head) * channels..][..channels].to_vec()
            };
            cells.iter().flat_map(of_cell).map(f64::from).collect()
        };
        let q = pick(0);
        let delta = |i: usize, j: usize, axis: usize| attended[axis] - 1 + cells[i][axis] - cells[j][axis];
        let position = |at: usize, c: usize| {
            let (i, j) = (at / m, at % m);
            (i * channels + c, delta(i, j, 0) * channels + c, delta(i, j, 1) * channels + c)
        };
        let mut terms = vec![0f64; m * m];
        if let Some(tables) = self.inputs.tables {
            for (at, term) in terms.iter_mut().enumerate() {
                for (query, row, column) in (0..channels).map(|c| position(at, c)) {
                    *term += q[query] * (f64::from(tables.rows[row]) + f64::from(tables.columns[column]));
                }
            }
        }
        let exact = Exact::new([q.clone(), pick(1), pick(2)], &terms, channels);
        let exact_out = exact.out();
        let mut d = vec![0f64; m * channels];
        for (i, &cell) in cells.iter().enumerate() {
            let Some(token) = token(cell) else { continue };
            for c in 0..channels {
                let place = (token * heads + head) * channels + c;
                self.out[place] = exact_out[i * channels + c];
                d[i * channels + c] = f64::from(self.d_out[place]);
            }
        }
        let [mut d_q, d_k, d_v, d_terms] = exact.grads(&d);
        if let Some(tables) = self.inputs.tables {
            for (at, d_term) in d_terms.iter().enumerate() {
                for (query, row, column) in (0..channels).map(|c| position(at, c)) {
                    d_q[query] += d_term * (f64::from(tables.rows[row]) + f64::from(tables.columns[column]));
                    self.d_rows[row] += d_term * q[query];
                    self.d_columns[column] += d_term * q[query];
                }
            }
        }
        for (i, &cell) in cells.iter().enumerate() {
            for (part, d) in [&d_q, &d_k, &d_v].into_iter().enumerate() {
                for c in 0..channels {
                    let value = (part * heads + head) * channels + c;
                    match token(cell) {
                        Some(token) => self.d_qkv[token * n_values + value] = d[i * channels + c],
                        None => self.d_bias[value] += d[i * channels + c],
                    }
                }
            }
        }
    }
}

#[test]
fn windows_with_relative_positions_match_the_definition() {
    for (images, grid, heads, channels, window, with_tables) in [
        (2, [5, 7], 2, 4, 0, true),
        (1, [1, 1], 1, 2, 0, true),
        (1, [8, 8], 2, 3, 3, true),
        (1, [6, 6], 1, 4, 3, true),
        (2, [4, 5], 2, 4, 4, false),
        (1, [1, 50], 2, 4, 0, false),
        (1, [17, 33], 1, 8, 0, true),
        (1, [30, 20], 1, 4, 14, true),
    ] {
        let sizes = GridSizes { images, grid, heads, channels, window };
        let attention = GridAttention(sizes);
        let n_tokens = images * grid[0] * grid[1];
        let attended = if window == 0 { grid } else { [window; 2] };
        let (qkv, bias) = (values(n_tokens * 3 * heads * channels, 1), values(3 * heads * channels, 2));
        let [rows, columns] = [0, 1].map(|axis| values((2 * attended[axis] - 1) * channels, 3 + axis as u32));
        let tables = with_tables.then_some(Tables { rows: &rows, columns: &columns });
        let d_out = values(n_tokens * heads * channels, 5);
        let inputs = GridInputs { qkv: &qkv, bias: &bias, tables };
        let output = attention.forward(inputs);
        let out = &output.out;
        let grads = attention.backward(inputs, OutputGrad { out, log_sums: &output.log_sums, d_out: &d_out });

        let exact = ExactGrid::new(sizes, inputs, &d_out);
        check("out", out, &exact.out, FORWARD);
        check("qkv", &grads.qkv, &exact.d_qkv, BACKWARD);
        check("bias", &grads.bias, &exact.d_bias, BACKWARD);
        assert_eq!(grads.tables.is_some(), with_tables);
        if let Some(grads) = grads.tables {
            check("rows", &grads.rows, &exact.d_rows, BACKWARD);
            check("columns", &grads.columns, &exact.d_columns, BACKWARD);
        }
    }
}

#[test]
fn results_of_few_tokens_do_not_depend_on_the_number_of_threads() {
    for (queries, keys) in [(400, 7), (7, 400)] {
        let sizes = CrossAttention { objects: 3, queries, keys, heads: 2, channels: 16 };
        let (q, k, v) = (values(2 * queries * 32, 1), values(2 * keys * 32, 2), values(2 * keys * 32, 3));
        let (index, d_out) = ([1, 0, 1], values(3 * queries * 32, 4));
        let on = |n: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a pool");
            pool.install(|| {
                let (q_index, kv_index) = (Some(&index[..]), Some(&index[..]));
                let inputs = CrossInputs { q: &q, k: &k, v: &v, q_index, kv_index, absent: None };
                let output = sizes.forward(inputs);
                let (out, log_sums) = (&output.out, &output.log_sums);
                let grads = sizes.backward(inputs, OutputGrad { out, log_sums, d_out: &d_out });
                (output.out, grads.q, grads.k, grads.v)
            })
        };
        assert_eq!(on(1), on(5));
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let attention = GridAttention(GridSizes { images: 1, grid: [20, 20], heads: 3, channels: 8, window: 0 });
    let (qkv, bias) = (values(400 * 72, 1), values(72, 2));
    let tables = values(39 * 8, 3);
    let tables = Some(Tables { rows: &tables, columns: &tables });
    let d_out = values(400 * 24, 4);
    let on = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a pool");
        pool.install(|| {
            let inputs = GridInputs { qkv: &qkv, bias: &bias, tables };
            let output = attention.forward(inputs);
            let (out, log_sums) = (&output.out, &output.log_sums);
            let grads = attention.backward(inputs, OutputGrad { out, log_sums, d_out: &d_out });
            let tables = grads.tables.map(|grads| [grads.rows, grads.columns]);
            (output.out, grads.qkv, tables)
        })
    };
    assert_eq!(on(1), on(5));
}
