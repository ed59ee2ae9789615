//! Hostile bytes at what is kept: commands of the log and snapshots. Refused, or applied with all invariants intact.
//!
//! Commands come from the generator of the other tests and are damaged by seed; a log's checksums would have found that,
//! so this is the last line. Snapshots carry checksums: no damage at all may pass. Absent: the log itself (server/wal).

use quorate_seam::sim::{SimRandom, mutated};
use quorate_tree::{Command, State, generate::Generator, recipe::NoRecipes, snapshot};

#[test]
fn damaged_commands_are_refused_or_keep_the_invariants() {
    let random = SimRandom::new(5);
    let (mut generator, mut state) = (Generator::new(5), State::new());
    let mut applied = 0;
    for _ in 0..300 {
        let entry = generator.entry();
        let good = entry.command.as_ref().map(Command::encode);
        generator.learn(&entry.apply(&mut state));
        let Some(good) = good else { continue };
        for _ in 0..30 {
            let Ok(command) = Command::decode(&mutated(&good, &random)) else { continue };
            let mut copy = state.clone();
            let zxid = quorate_model::Zxid(copy.last_zxid().0 + 1);
            copy.apply(zxid, entry.term, &command, &NoRecipes);
            copy.invariants().unwrap_or_else(|broken| panic!("{broken} after {command:?}"));
            applied += 1;
        }
    }
    assert!(applied > 500, "enough damage is not seen that it is applied: {applied}");
}

#[test]
fn damaged_snapshots_are_refused() {
    let random = SimRandom::new(6);
    let (mut generator, mut state) = (Generator::new(6), State::new());
    for _ in 0..200 {
        let entry = generator.entry();
        generator.learn(&entry.apply(&mut state));
    }
    let mut good = Vec::new();
    snapshot::write(&state, b"meta", &mut good, &mut |_| {}).expect("writing into memory cannot fail");
    for _ in 0..3_000 {
        let bytes = mutated(&good, &random);
        assert!(bytes == good || snapshot::read(&mut bytes.as_slice()).is_err(), "damage was not found");
    }
}
