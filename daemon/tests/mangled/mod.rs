//! Bytes as damage and malice make them of valid ones: for decoders of what comes from outside or from a disk.
//!
//! A decoder may refuse them or understand something else; it may not panic, and not believe a length before its bytes are
//! there: a count of petabytes that is believed ends the test.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// How many mangled messages each decoder is given.
const CASES: u32 = 3_000;

/// One change to a message.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Cut(Index),
    Remove(Index, usize),
    Repeat(Index, usize),
    /// A number, as lengths and counts are written, in place of a byte.
    Count(Index, u64),
}

fn change() -> impl Strategy<Value = Change> {
    let number = prop_oneof![any::<u64>(), (0_u32..64).prop_map(|bit| 1 << bit), Just(u64::MAX)];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        any::<Index>().prop_map(Change::Cut),
        (any::<Index>(), 1_usize..9).prop_map(|(at, len)| Change::Remove(at, len)),
        (any::<Index>(), 1_usize..40).prop_map(|(at, len)| Change::Repeat(at, len)),
        (any::<Index>(), number).prop_map(|(at, number)| Change::Count(at, number)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let Some(end) = bytes.len().checked_sub(1) else { return };
    match change {
        Change::Set(at, byte) => bytes[at.index(end + 1)] = *byte,
        Change::Cut(at) => bytes.truncate(at.index(end + 1)),
        Change::Remove(at, len) => {
            let at = at.index(end + 1);
            bytes.drain(at..(at + len).min(end + 1));
        }
        Change::Repeat(at, len) => {
            let at = at.index(end + 1);
            let part = bytes[at..(at + len).min(end + 1)].to_vec();
            bytes.splice(at..at, part);
        }
        Change::Count(at, number) => {
            let at = at.index(end + 1);
            bytes.splice(at..=at, varint(*number));
        }
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Gives `decode` mangled forms of the valid `samples`, and any bytes at all.
pub(crate) fn survive(samples: &[Vec<u8>], mut decode: impl FnMut(&[u8])) {
    assert!(!samples.is_empty());
    samples.iter().for_each(|sample| decode(sample));
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let any_bytes = vec(any::<u8>(), 0..200);
    let mangled = (any::<Index>(), vec(change(), 1..4)).prop_map(|(which, changes)| {
        let mut bytes = samples[which.index(samples.len())].clone();
        changes.iter().for_each(|change| apply(&mut bytes, change));
        bytes
    });
    let decode = std::cell::RefCell::new(&mut decode);
    let run = TestRunner::new(config).run(&prop_oneof![1 => any_bytes, 4 => mangled], |bytes| {
        let mut decode = decode.borrow_mut();
        (*decode)(&bytes);
        Ok(())
    });
    run.unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn a_decoder_that_believes_a_length_is_found() {
    let believes = |bytes: &[u8]| {
        if let [length, rest @ ..] = bytes {
            let _: &[u8] = &rest[..usize::from(*length)];
        }
    };
    let caught = std::panic::catch_unwind(|| survive(&[vec![3, 1, 2, 3]], believes));
    assert!(caught.is_err(), "the net has a hole");
}
