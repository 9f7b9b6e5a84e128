use burn::train::Interrupter;

use super::*;

/// Runs the same on every rank.
fn on_all<T: Send>(n: usize, work: impl Fn(&dyn Ranks) -> T + Sync) -> Vec<T> {
    let ranks = thread_ranks(n, &Interrupter::new());
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || work(&rank))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

#[test]
fn sums_are_pairwise_in_the_order_of_the_ranks_and_the_same_on_all() {
    // A sum in which the order counts.
    let of_rank =
        |rank: usize| -> Vec<f32> { (0..7).map(|at| [1e8, 1.0, -1e8, 0.25][rank] * (at + 1) as f32).collect() };
    let expected: Vec<f32> =
        (0..7).map(|at| (of_rank(0)[at] + of_rank(1)[at]) + (of_rank(2)[at] + of_rank(3)[at])).collect();
    for _ in 0..20 {
        let sums = on_all(4, |ranks| sum(ranks, of_rank(ranks.rank())).expect("summed"));
        assert!(sums.iter().all(|sum| *sum == expected), "{sums:?}");
    }
    // Fewer values than ranks, and none.
    assert_eq!(on_all(3, |ranks| sum(ranks, vec![ranks.rank() as f32]).expect("summed")), vec![vec![3.0]; 3]);
    assert_eq!(on_all(2, |ranks| sum(ranks, Vec::new()).expect("summed")), vec![Vec::<f32>::new(); 2]);
    assert_eq!(sum(&Alone, vec![1.0, 2.0]).expect("summed"), [1.0, 2.0]);
}

#[test]
fn rounds_do_not_mix() {
    let all = on_all(3, |ranks| {
        (0..200).map(|round| gather(ranks, &(round * 10 + ranks.rank())).expect("gathered")).collect::<Vec<_>>()
    });
    for of_rank in all {
        for (round, gathered) in of_rank.into_iter().enumerate() {
            assert_eq!(gathered, [round * 10, round * 10 + 1, round * 10 + 2]);
        }
    }
}

#[test]
fn a_rank_that_ends_is_lost_and_one_that_stops_stops_all() {
    let outcomes = |interrupter: &Interrupter| {
        let mut ranks = thread_ranks(3, interrupter);
        drop(ranks.remove(1));
        std::thread::scope(|scope| {
            let threads: Vec<_> = ranks.iter().map(|rank| scope.spawn(|| gather(rank, &1).map(drop))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
        })
    };
    let lost = Err(RankError::Lost { rank: 1, n: 3, reason: "it ended before the others".to_owned() });
    assert_eq!(outcomes(&Interrupter::new()), [lost.clone(), lost]);
    let stopped = Interrupter::new();
    stopped.stop(Some("test"));
    let of = |rank| Err(RankError::Stopped { rank });
    assert_eq!(outcomes(&stopped), [of(0), of(2)]);
}

#[test]
fn ranks_that_differ_are_named_with_both_values() {
    let say = |differs: bool| {
        on_all(3, |ranks| {
            let seed = if differs && ranks.rank() == 2 { 8 } else { 7 };
            agree(ranks, &vec![Statement::new("data.train", "/a"), Statement::new("run.seed", seed)]).expect("gathered")
        })
    };
    assert_eq!(say(false), [None, None, None]);
    let expected = "run.seed: all ranks must have the same; rank 0 has 7, rank 2 has 8";
    assert_eq!(say(true), vec![Some(expected.to_owned()); 3]);
}
