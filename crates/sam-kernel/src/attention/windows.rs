//! The grid of a self-attention and its windows: which token is where. Both self-attentions work through it, one head of one window
//! of one image at a time.
//!
//! The references pad the grid with zeros to whole windows *before* queries, keys and values are formed, so cells outside of the grid
//! have a key and a value of their own, the same for all of them, and take part; as queries they are cut off again. Here they are
//! never computed: the caller gives that one key and value.
//!
//! Letters: `B` images, `H W` grid, `A` heads, `C` channels of a head, `N` queries of a job, `M` its keys with padding.

use rayon::prelude::*;

use super::head::HeadGrads;
use crate::vector::LANES;

/// Sizes of a self-attention over a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridSizes {
    /// `B`.
    pub images: usize,
    /// `[H, W]`.
    pub grid: [usize; 2],
    /// `A`.
    pub heads: usize,
    /// `C`.
    pub channels: usize,
    /// Side of a window; 0 for the whole grid.
    pub window: usize,
}

/// The parts of a token.
pub(super) const QUERY: usize = 0;
pub(super) const KEY: usize = 1;
pub(super) const VALUE: usize = 2;

/// How a token's queries, keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// `[3, A, C]`, SAM's.
    PartByPart,
    /// `[A, 3, C]`, TinyViT's.
    HeadByHead,
}

/// Where the keys of a window are padded to whole vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyPadding {
    /// After every row, so that terms of rows and of columns can be added.
    EveryRow,
    /// After the last.
    End,
}

/// The windows of a grid and the layout of their rows.
#[derive(Clone, Copy)]
pub(super) struct Windows {
    pub(super) sizes: GridSizes,
    pub(super) storage: Storage,
    pub(super) padding: KeyPadding,
}

/// A head of a window of an image.
#[derive(Clone, Copy)]
pub(super) struct Job {
    image: usize,
    /// The first cell.
    origin: [usize; 2],
    /// Rows and columns inside the grid.
    real: [usize; 2],
    pub(super) head: usize,
}

/// Rows of a job.
pub(super) struct Gathered {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    /// Row and column of each query in its window.
    pub(super) cells: Vec<[usize; 2]>,
}

/// The location of a token's part in the result of a job.
struct Place {
    /// [`QUERY`], [`KEY`] or [`VALUE`].
    part: usize,
    query: usize,
    key: usize,
}

impl Windows {
    /// # Shapes
    /// - `qkv`: `[B, H, W, 3 * A * C]`, `padding`: `[3 * A * C]`
    pub(super) fn check(&self, qkv: &[f32], padding: &[f32]) {
        let GridSizes { images, grid: [height, width], heads, channels, .. } = self.sizes;
        let values = 3 * heads * channels;
        assert_eq!(qkv.len(), images * height * width * values, "queries, keys and values are [B, H, W, 3 A C]");
        assert_eq!(padding.len(), values, "those of padding are [3 A C]");
    }

    /// Rows and columns of a window, padding included.
    pub(super) fn attended(&self) -> [usize; 2] {
        if self.sizes.window == 0 { self.sizes.grid } else { [self.sizes.window; 2] }
    }

    /// From a row of keys to the next.
    pub(super) fn row_length(&self) -> usize {
        let [_, columns] = self.attended();
        match self.padding {
            KeyPadding::EveryRow => columns.next_multiple_of(LANES),
            KeyPadding::End => columns,
        }
    }

    /// `M`.
    pub(super) fn n_keys(&self) -> usize {
        (self.attended()[0] * self.row_length()).next_multiple_of(LANES)
    }

    fn per_axis(&self) -> [usize; 2] {
        let attended = self.attended();
        [0, 1].map(|axis| self.sizes.grid[axis].div_ceil(attended[axis]))
    }

    fn per_image(&self) -> usize {
        self.per_axis().iter().product()
    }

    /// The job of an index: images first, windows of an image row by row, heads of a window.
    fn job(&self, index: usize) -> Job {
        let [_, per_row] = self.per_axis();
        let (head, window) = (index % self.sizes.heads, index / self.sizes.heads);
        let (image, window) = (window / self.per_image(), window % self.per_image());
        let attended = self.attended();
        let origin = [window / per_row * attended[0], window % per_row * attended[1]];
        let real = [0, 1].map(|axis| attended[axis].min(self.sizes.grid[axis] - origin[axis]));
        Job { image, origin, real, head }
    }

    fn jobs(&self) -> impl Iterator<Item = Job> {
        (0..self.sizes.images * self.per_image() * self.sizes.heads).map(|at| self.job(at))
    }

    /// The results of all jobs, in their order.
    pub(super) fn map<T: Send>(&self, work: impl Fn(Job) -> T + Sync) -> Vec<T> {
        let n = self.sizes.images * self.per_image() * self.sizes.heads;
        (0..n).into_par_iter().map(|at| work(self.job(at))).collect()
    }

    /// The values of a job's queries among one value per query and head, in the order of [`Windows::map`].
    pub(super) fn of_queries<'a>(&self, values: &'a [f32], job: Job) -> &'a [f32] {
        let [height, width] = self.sizes.grid;
        let Job { image, origin: [row, column], real: [rows, columns], head } = job;
        let before = image * height * width + row * width + rows * column;
        &values[before * self.sizes.heads + head * rows * columns..][..rows * columns]
    }

    fn token(&self, job: Job, [row, column]: [usize; 2]) -> usize {
        (job.image * self.sizes.grid[0] + job.origin[0] + row) * self.sizes.grid[1] + job.origin[1] + column
    }

    /// The place of a head's part among the `[3 * A]` of a token, of `C` values each.
    fn place(&self, part: usize, head: usize) -> usize {
        match self.storage {
            Storage::PartByPart => part * self.sizes.heads + head,
            Storage::HeadByHead => head * 3 + part,
        }
    }

    pub(super) fn gather(&self, qkv: &[f32], padding: &[f32], job: Job) -> Gathered {
        let c = self.sizes.channels;
        let values = 3 * self.sizes.heads * c;
        let [rows, columns] = self.attended();
        let (row_length, n_keys) = (self.row_length(), self.n_keys());
        let places = [QUERY, KEY, VALUE].map(|part| self.place(part, job.head) * c);
        let n_queries = job.real[0] * job.real[1];
        let mut gathered = Gathered {
            q: Vec::with_capacity(n_queries * c),
            k: Vec::with_capacity(n_keys * c),
            v: Vec::with_capacity(n_keys * c),
            cells: Vec::with_capacity(n_queries),
        };
        for row in 0..rows {
            for column in 0..columns {
                let token = if row < job.real[0] && column < job.real[1] {
                    let token = &qkv[self.token(job, [row, column]) * values..][..values];
                    gathered.q.extend_from_slice(&token[places[QUERY]..][..c]);
                    gathered.cells.push([row, column]);
                    token
                } else {
                    padding
                };
                gathered.k.extend_from_slice(&token[places[KEY]..][..c]);
                gathered.v.extend_from_slice(&token[places[VALUE]..][..c]);
            }
            gathered.k.resize((row + 1) * row_length * c, 0.0);
            gathered.v.resize((row + 1) * row_length * c, 0.0);
        }
        gathered.k.resize(n_keys * c, 0.0);
        gathered.v.resize(n_keys * c, 0.0);
        gathered
    }

    /// `[N, C]` of the queries of a job, from `[B, H, W, A * C]`.
    pub(super) fn gather_out(&self, values: &[f32], job: Job) -> Vec<f32> {
        let c = self.sizes.channels;
        let cells = (0..job.real[0]).flat_map(|row| (0..job.real[1]).map(move |column| [row, column]));
        let of_cell = |cell| &values[(self.token(job, cell) * self.sizes.heads + job.head) * c..][..c];
        cells.flat_map(of_cell).copied().collect()
    }

    /// `[B, H, W, A * C]` from `[N, C]` of each job.
    pub(super) fn join_outs(&self, outs: &[Vec<f32>]) -> Vec<f32> {
        let c = self.sizes.channels;
        self.join(1, |job, place, part| part.copy_from_slice(&outs[job][place.query * c..][..c]))
    }

    /// Gradients of queries, keys and values in their own layout, from those of each job.
    pub(super) fn join_grads(&self, of_jobs: &[HeadGrads]) -> Vec<f32> {
        let c = self.sizes.channels;
        self.join(3, |job, place, part| {
            let HeadGrads { q, k, v, .. } = &of_jobs[job];
            let (values, at) = match place.part {
                QUERY => (q, place.query),
                KEY => (k, place.key),
                _ => (v, place.key),
            };
            part.copy_from_slice(&values[at * c..][..c]);
        })
    }

    /// `[B, H, W, n_parts * A * C]`, each token's parts of `C` values written by `write(job, place, part)`.
    fn join(&self, n_parts: usize, write: impl Fn(usize, Place, &mut [f32]) + Sync) -> Vec<f32> {
        let GridSizes { images, grid: [height, width], heads, channels, .. } = self.sizes;
        let values = n_parts * heads * channels;
        let ([rows, columns], [_, per_row]) = (self.attended(), self.per_axis());
        let (row_length, per_image) = (self.row_length(), self.per_image());
        let mut joined = vec![0f32; images * height * width * values];
        joined.par_chunks_mut(width * values).enumerate().for_each(|(line, tokens)| {
            let (image, row) = (line / height, line % height);
            for (column, token) in tokens.chunks_exact_mut(values).enumerate() {
                let window = image * per_image + row / rows * per_row + column / columns;
                let real_columns = columns.min(width - column / columns * columns);
                let (row, column) = (row % rows, column % columns);
                let (query, key) = (row * real_columns + column, row * row_length + column);
                for (at, values) in token.chunks_exact_mut(channels).enumerate() {
                    let (part, head) = match self.storage {
                        Storage::PartByPart => (at / heads, at % heads),
                        Storage::HeadByHead => (at % n_parts, at / n_parts),
                    };
                    write(window * heads + head, Place { part, query, key }, values);
                }
            }
        });
        joined
    }

    /// `[3 * A * C]`: gradients of what stands for cells outside of the grid; their queries are nobody's, so theirs are zero.
    pub(super) fn padding_grads(&self, of_jobs: &[HeadGrads]) -> Vec<f32> {
        let c = self.sizes.channels;
        let [rows, columns] = self.attended();
        let row_length = self.row_length();
        let mut padding = vec![0f32; 3 * self.sizes.heads * c];
        for (job, grads) in self.jobs().zip(of_jobs) {
            for row in 0..rows {
                let first_padded = if row < job.real[0] { job.real[1] } else { 0 };
                for column in first_padded..columns {
                    let at = (row * row_length + column) * c;
                    for (part, values) in [(KEY, &grads.k), (VALUE, &grads.v)] {
                        let to = &mut padding[self.place(part, job.head) * c..][..c];
                        to.iter_mut().zip(&values[at..][..c]).for_each(|(sum, value)| *sum += value);
                    }
                }
            }
        }
        padding
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    const GRIDS: [(usize, [usize; 2], usize); 6] =
        [(2, [5, 7], 0), (1, [1, 1], 4), (2, [8, 8], 3), (1, [6, 6], 3), (1, [30, 20], 14), (2, [3, 40], 17)];

    fn each(mut see: impl FnMut(Windows)) {
        for (images, grid, window) in GRIDS {
            for storage in [Storage::PartByPart, Storage::HeadByHead] {
                for padding in [KeyPadding::EveryRow, KeyPadding::End] {
                    let sizes = GridSizes { images, grid, heads: 3, channels: 2, window };
                    see(Windows { sizes, storage, padding });
                }
            }
        }
    }

    /// What is taken apart and joined is the same; padding is where there is no cell.
    #[test]
    fn joined_rows_are_what_was_gathered() {
        each(|windows| {
            let GridSizes { images, grid, heads, channels: c, .. } = windows.sizes;
            let n_tokens = images * grid[0] * grid[1];
            let (qkv, padding) = (values(n_tokens * 3 * heads * c, 1), vec![7.0; 3 * heads * c]);
            windows.check(&qkv, &padding);
            let [rows, columns] = windows.attended();
            let of_jobs: Vec<HeadGrads> = windows.map(|job| {
                let Gathered { q, k, v, cells } = windows.gather(&qkv, &padding, job);
                assert_eq!([k.len(), v.len()], [windows.n_keys() * c; 2]);
                let is_padding = |cell: &[usize; 2]| !cells.contains(cell);
                for cell in (0..rows * columns).map(|at| [at / columns, at % columns]).filter(is_padding) {
                    let at = (cell[0] * windows.row_length() + cell[1]) * c;
                    assert_eq!([&k[at..][..c], &v[at..][..c]], [&padding[..c]; 2], "{cell:?}");
                }
                assert_eq!(k.iter().filter(|&&value| value == 7.0).count(), (rows * columns - cells.len()) * c);
                HeadGrads { q, k, v, tables: None, pairs: Vec::new() }
            });
            assert_eq!(windows.join_grads(&of_jobs), qkv);
            let sums = windows.padding_grads(&of_jobs);
            let n_padded = of_jobs.iter().map(|job| rows * columns - job.q.len() / c).sum::<usize>() / heads;
            for head in 0..heads {
                for (part, expected) in [(QUERY, 0.0), (KEY, 7.0 * n_padded as f32), (VALUE, 7.0 * n_padded as f32)] {
                    assert_eq!(sums[windows.place(part, head) * c..][..c], vec![expected; c], "part {part}");
                }
            }
            let out = values(n_tokens * heads * c, 2);
            assert_eq!(windows.join_outs(&windows.map(|job| windows.gather_out(&out, job))), out);
        });
    }

    #[test]
    fn values_of_queries_follow_one_another() {
        each(|windows| {
            let GridSizes { images, grid, heads, .. } = windows.sizes;
            let all: Vec<f32> = (0..images * grid[0] * grid[1] * heads).map(|at| at as f32).collect();
            let of_jobs: Vec<&[f32]> = windows.jobs().map(|job| windows.of_queries(&all, job)).collect();
            assert_eq!(of_jobs.concat(), all);
        });
    }
}
