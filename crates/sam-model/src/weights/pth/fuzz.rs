//! Arbitrary and damaged checkpoints: each is read or rejected, without a panic or a long wait.

use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::pickle::Pickle;
use super::samples::{dict, entry, open, sample, stream_of, zip_of};

/// Opcodes that push a value and pop none, with operands as in checkpoints.
const PUSHES: [&[&[u8]]; 5] = [
    &[b"}", b"]", b")", b"(", b"N", b"\x88", b"K\x01", b"K\x03", b"J\xff\xff\xff\xff", b"(K\x02t", b"(K\x01t"],
    &[b"X\x01\0\0\0a", b"X\x05\0\0\0model", b"X\x07\0\0\0storage", b"X\x01\0\0\x000"],
    &[b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nFloatStorage\n"],
    &[
        b"ctorch._tensor\n_rebuild_from_type_v2\n",
        b"ctorch\nSize\n",
        b"ccollections\nOrderedDict\n",
        b"cbuiltins\nset\n",
    ],
    &[b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", STORAGE],
];

/// Opcodes that take values from the stack.
const OTHERS: [&[&[u8]]; 3] = [
    &[b"t", b"u", b"s", b"a", b"e", b"d", b"l", b"0", b"1", b"2", b"\x85", b"\x86", b"\x87"],
    &[b"q\0", b"q\x01", b"h\0", b"h\x01", b"\x94", b"R", b"\x81", b"\x92", b"b", b"Q", b"o", b"\x93", b"."],
    &[b"iargparse\nNamespace\n"],
];

/// Opcodes that load the persistent id of storage 0, of four elements.
const STORAGE: &[u8] = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";

/// Opens a checkpoint and reads its tensors.
fn read(bytes: &[u8]) {
    let Ok(index) = open(bytes) else { return };
    for tensor in &index.tensors {
        let expected = tensor.shape.iter().product::<usize>() * tensor.dtype.size();
        if let Ok(values) = index.read(tensor) {
            assert_eq!(values.len(), expected, "{tensor:?}");
        }
    }
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        60 => select(PUSHES.concat()).prop_map(<[u8]>::to_vec),
        39 => select(OTHERS.concat()).prop_map(<[u8]>::to_vec),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ]
}

/// One of `usual`, or any number.
fn mostly(usual: Range<i64>) -> impl Strategy<Value = i64> {
    prop_oneof![19 => usual, 1 => any::<i64>()]
}

/// Streams and zips: with views, under a wrapper beside other entries, and as written by us.
fn valid_files() -> Vec<Vec<u8>> {
    let values = [0, 1, 2, 3, 4, 5];
    let transposed = dict(&[entry("w", 6, 0, [&[3, 2], &[1, 3]], b"")]);
    let view = entry("view", 6, 1, [&[2], &[1]], b"(X\x01\0\0\x009K\x02K\x03t");
    let streamed = dict(&[entry("whole", 6, 0, [&[2, 3], &[3, 1]], b"N"), view]);
    let wrapped = [
        b"}(X\x04\0\0\0argscargparse\nNamespace\n)\x81}X\x02\0\0\0lrK\x01sbX\x05\0\0\0model}(".as_slice(),
        &entry("expanded", 6, 5, [&[2, 2], &[0, 0]], b""),
        b"X\x01\0\0\0nNuu.",
    ];
    vec![
        stream_of(&transposed, &[(6, &values)]),
        stream_of(&streamed, &[(6, &values)]),
        zip_of(&transposed, &[&values]),
        zip_of(&wrapped.concat(), &[&values]),
        sample().1,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(Pickle::read(&bytes));
        for head in [b"".as_slice(), b"PK\x03\x04", b"\x80\x02"] {
            read(&[head, &bytes].concat());
        }
    }

    #[test]
    fn any_program(pieces in prop::collection::vec(piece(), 0..40)) {
        // Starts with values, memos and marks, so that programs get further.
        let pickle = [b"}q\0}(]q\x01K\x01(K\x01)", pieces.concat().as_slice(), b"."].concat();
        drop(Pickle::read(&pickle));
        read(&zip_of(&pickle, &[&[7; 16]]));
    }

    #[test]
    fn any_tensor(
        axes in prop::collection::vec((0i64..4, mostly(0..4)), 0..4),
        odd_stride in prop::option::weighted(0.05, any::<i64>()),
        offset in mostly(0..3),
        len in mostly(2..6),
    ) {
        let (shape, mut strides): (Vec<_>, Vec<_>) = axes.into_iter().unzip();
        strides.extend(odd_stride);
        let longs = |ints: &[i64]| -> Vec<u8> {
            ints.iter().flat_map(|int| [b"\x8a\x08", int.to_le_bytes().as_slice()].concat()).collect()
        };
        let pickle = [
            b"}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n(".as_slice(),
            STORAGE.strip_suffix(b"K\x04tQ").expect("the count of elements is last"),
            &longs(&[len]),
            b"tQ",
            &longs(&[offset]),
            b"(",
            &longs(&shape),
            b"t(",
            &longs(&strides),
            b"ttRs.",
        ];
        read(&zip_of(&pickle.concat(), &[&[7; 16]]));
    }

    #[test]
    fn damaged_files(
        mut file in select(valid_files()),
        edits in prop::collection::vec((any::<Index>(), prop_oneof![any::<u8>(), select(vec![0, 0x7f, 0xff])]), 1..6),
        cut in prop::option::weighted(0.1, any::<Index>()),
    ) {
        for (place, value) in edits {
            let at = place.index(file.len());
            file[at] = value;
        }
        if let Some(place) = cut {
            file.truncate(place.index(file.len()));
        }
        read(&file);
    }
}

#[test]
fn undamaged_files_are_read() {
    for file in valid_files() {
        let index = open(&file).expect("valid");
        assert!(!index.tensors.is_empty());
        read(&file);
    }
}

/// A damaged byte results in an error or in other values, never in a panic or a long wait.
#[test]
fn damage_is_survived() {
    let pickle = dict(&[entry("w", 6, 0, [&[3, 2], &[1, 3]], b"")]);
    let stream = stream_of(&pickle, &[(6, &[0, 1, 2, 3, 4, 5])]);
    for bytes in [zip_of(&pickle, &[&[0, 1, 2, 3, 4, 5]]), stream] {
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            for value in [0, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(16)] {
                damaged[at] = value;
                if let Ok(index) = open(&damaged) {
                    index.tensors.iter().for_each(|tensor| drop(index.read(tensor)));
                }
            }
            drop(open(&bytes[..at]));
        }
    }
}
