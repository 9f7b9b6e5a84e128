//! Assignment in sparse bipartite graphs: as many pairs as possible, and of those pairings one of least total cost.
//!
//! Successive shortest paths with potentials (Jonker and Volgenant 1987): rows are added one by one, each along the shortest
//! path that gives it, or an earlier row in its place, a free column or leaves one of them alone. Being alone has a cost above
//! that of any pairing, so that as few as possible are. A path never leaves its connected component, and costs are integers, so
//! the result is exact.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A possible pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) column: u32,
    pub(crate) cost: u32,
}

/// The possible pairs of each row.
#[derive(Clone, Debug, Default)]
pub(crate) struct PairGraph {
    pub(crate) pairs: Vec<Pair>,
    /// Where the pairs of each row end.
    pub(crate) ends: Vec<usize>,
    pub(crate) n_columns: usize,
}

impl PairGraph {
    fn of(&self, row: usize) -> &[Pair] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.pairs[start..self.ends[row]]
    }
}

/// No row or column.
const NONE: u32 = u32::MAX;

/// The column of each row, if it has one.
pub(crate) fn assign(graph: &PairGraph) -> Vec<Option<u32>> {
    let n_rows = graph.ends.len();
    let largest = graph.pairs.iter().map(|pair| i64::from(pair.cost)).max().unwrap_or(0);
    let n_pairs_at_most = n_rows.min(graph.n_columns) as i64;
    let mut search = Search {
        graph,
        alone_cost: (largest + 1) * (n_pairs_at_most + 1),
        row_potential: vec![0; n_rows],
        column_potential: vec![0; graph.n_columns],
        column_of: vec![NONE; n_rows],
        row_of: vec![NONE; graph.n_columns],
        distance: vec![i64::MAX; graph.n_columns],
        from: vec![NONE; graph.n_columns],
        is_settled: vec![false; graph.n_columns],
        reached: Vec::new(),
        settled: Vec::new(),
        heap: BinaryHeap::new(),
    };
    for row in 0..n_rows {
        if !graph.of(row).is_empty() {
            search.add(row as u32);
        }
    }
    search.column_of.into_iter().map(|column| (column != NONE).then_some(column)).collect()
}

struct Search<'a> {
    graph: &'a PairGraph,
    alone_cost: i64,
    /// For every pair, `cost - row potential - column potential` is at least 0, and 0 for those in use.
    row_potential: Vec<i64>,
    column_potential: Vec<i64>,
    column_of: Vec<u32>,
    row_of: Vec<u32>,
    /// Of the current search: the length of the shortest path to each column, and the row before it.
    distance: Vec<i64>,
    from: Vec<u32>,
    is_settled: Vec<bool>,
    reached: Vec<u32>,
    /// Columns in the tree, whose rows are, too.
    settled: Vec<u32>,
    heap: BinaryHeap<Reverse<(i64, u32)>>,
}

/// Where a shortest path ends.
#[derive(Clone, Copy)]
enum End {
    /// At a column that no row has.
    Free(u32),
    /// At a row that stays alone.
    Alone(u32),
}

impl Search<'_> {
    /// Adds a row.
    fn add(&mut self, row: u32) {
        let (end, length) = self.shortest_path(row);
        self.row_potential[row as usize] += length;
        for at in 0..self.settled.len() {
            let column = self.settled[at] as usize;
            let closer = length - self.distance[column];
            self.column_potential[column] -= closer;
            self.row_potential[self.row_of[column] as usize] += closer;
        }
        self.flip(row, end);
        for &column in &self.reached {
            self.distance[column as usize] = i64::MAX;
            self.is_settled[column as usize] = false;
        }
        self.reached.clear();
        self.settled.clear();
        self.heap.clear();
    }

    fn shortest_path(&mut self, first: u32) -> (End, i64) {
        let mut alone = (End::Alone(first), self.alone_cost - self.row_potential[first as usize]);
        self.expand(first, 0);
        while let Some(Reverse((distance, column))) = self.heap.pop() {
            if self.is_settled[column as usize] {
                continue;
            }
            if distance >= alone.1 {
                break;
            }
            let row = self.row_of[column as usize];
            if row == NONE {
                return (End::Free(column), distance);
            }
            self.is_settled[column as usize] = true;
            self.settled.push(column);
            let length = distance + self.alone_cost - self.row_potential[row as usize];
            if length < alone.1 {
                alone = (End::Alone(row), length);
            }
            self.expand(row, distance);
        }
        alone
    }

    /// Extends the paths beyond a row at this distance.
    fn expand(&mut self, row: u32, distance: i64) {
        let so_far = distance - self.row_potential[row as usize];
        let graph = self.graph;
        for pair in graph.of(row as usize) {
            let column = pair.column as usize;
            let length = so_far + i64::from(pair.cost) - self.column_potential[column];
            if length < self.distance[column] {
                if self.distance[column] == i64::MAX {
                    self.reached.push(pair.column);
                }
                self.distance[column] = length;
                self.from[column] = row;
                self.heap.push(Reverse((length, pair.column)));
            }
        }
    }

    /// Exchanges what is in use along the path from `first` to its end.
    fn flip(&mut self, first: u32, end: End) {
        let mut column = match end {
            End::Free(column) => column,
            End::Alone(row) if row == first => return,
            End::Alone(row) => std::mem::replace(&mut self.column_of[row as usize], NONE),
        };
        loop {
            let row = self.from[column as usize];
            self.row_of[column as usize] = row;
            let before = std::mem::replace(&mut self.column_of[row as usize], column);
            if row == first {
                return;
            }
            column = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sam_data::random::RandomStream;

    fn graph(rows: &[&[(u32, u32)]], n_columns: usize) -> PairGraph {
        let mut graph = PairGraph { n_columns, ..PairGraph::default() };
        for row in rows {
            graph.pairs.extend(row.iter().map(|&(column, cost)| Pair { column, cost }));
            graph.ends.push(graph.pairs.len());
        }
        graph
    }

    /// Number of pairs and their cost; panics where a column is used twice or a pair does not exist.
    fn measure(graph: &PairGraph, columns: &[Option<u32>]) -> (usize, u32) {
        let mut is_used = vec![false; graph.n_columns];
        let mut total = (0, 0);
        for (row, column) in columns.iter().enumerate() {
            let Some(column) = *column else { continue };
            assert!(!std::mem::replace(&mut is_used[column as usize], true), "column {column} twice");
            let pair = graph.of(row).iter().find(|pair| pair.column == column).expect("a possible pair");
            total = (total.0 + 1, total.1 + pair.cost);
        }
        total
    }

    /// The best of all pairings, by trying every one.
    fn exhaustive(graph: &PairGraph, row: usize, used: u32) -> (usize, u32) {
        if row == graph.ends.len() {
            return (0, 0);
        }
        let mut best = exhaustive(graph, row + 1, used);
        for pair in graph.of(row).iter().filter(|pair| used >> pair.column & 1 == 0) {
            let (n, cost) = exhaustive(graph, row + 1, used | 1 << pair.column);
            let with = (n + 1, cost + pair.cost);
            if with.0 > best.0 || (with.0 == best.0 && with.1 < best.1) {
                best = with;
            }
        }
        best
    }

    #[test]
    fn more_pairs_come_before_shorter_ones() {
        // The cheap pair (0, 0) alone, or two dear ones.
        let two = graph(&[&[(0, 0), (1, 400)], &[(0, 400)]], 2);
        assert_eq!(assign(&two), [Some(1), Some(0)]);
        // Three rows and one column: the cheapest, whichever comes first.
        let three = graph(&[&[(0, 7)], &[(0, 3)], &[(0, 5)]], 1);
        assert_eq!(assign(&three), [None, Some(0), None]);
        assert_eq!(assign(&graph(&[&[], &[]], 0)), [None, None]);
    }

    #[test]
    fn no_other_pairing_is_better() {
        let mut random = RandomStream::named(1, &[b"assignment"]);
        for _ in 0..400 {
            let (n_rows, n_columns) = (1 + random.index(7), 1 + random.index(7));
            let mut graph = PairGraph { n_columns, ..PairGraph::default() };
            for _ in 0..n_rows {
                for column in 0..n_columns {
                    if random.index(3) == 0 {
                        graph.pairs.push(Pair { column: column as u32, cost: random.index(30) as u32 });
                    }
                }
                graph.ends.push(graph.pairs.len());
            }
            assert_eq!(measure(&graph, &assign(&graph)), exhaustive(&graph, 0, 0), "{graph:?}");
        }
    }
}
