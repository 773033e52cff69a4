//! Replacing the authority: trusted by all, then used by all, then the old one is forgotten. Each step waits for every
//! member, and says for whom.

use super::authority::{Authority, AuthorityError, Stored};
use super::message::{MemberAnswer, MemberRequest, Shown, Waiting};
use crate::cluster::ca::{CaRecord, Generation, Stage};
use crate::telemetry::chain;
use crate::tls::{Facts, fingerprint};

/// What a member showed, or why it did not.
#[derive(Debug, Clone)]
struct Seen {
    node_id: u64,
    name: String,
    voter: bool,
    shown: Result<Shown, String>,
}

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// No rotation is under way.
    Nothing,
    /// Not yet: these members are not so far.
    Wait(Vec<Waiting>),
    /// Everybody trusts the next authority, every voter can sign with it: it becomes the active one.
    Activate,
    /// Nobody uses the retiring authority any more: it is forgotten.
    Forget,
    /// The key of the next authority went with the leader that made it: it can never sign.
    GiveUp,
}

impl Authority {
    /// One step of a rotation, if one is under way; only the leader does it.
    pub async fn advance_rotation(&self) -> Result<(), AuthorityError> {
        let Some(Stored { record, index }) = self.stored()? else { return Ok(()) };
        if record.is_settled() {
            self.note_waiting(Vec::new());
            return Ok(());
        }
        let step = next_step(&record, &self.look_at_members().await);
        let (changed, what) = match step {
            Step::Nothing => return Ok(()),
            Step::Wait(waiting) => {
                self.note_waiting(waiting);
                return Ok(());
            }
            Step::Activate => (record.with_next_active()?, "the new authority signs from now on"),
            Step::Forget => (record.settled(), "the old authority is trusted no more: the rotation is complete"),
            Step::GiveUp => (record.settled(), "nobody holds the key of the new authority: the rotation is given up"),
        };
        self.note_waiting(Vec::new());
        self.write(&changed, index).await?;
        tracing::info!(authority = changed.active().number, "{what}");
        Ok(())
    }

    async fn look_at_members(&self) -> Vec<Seen> {
        let members = self.consensus().status().members;
        let asked = members.iter().map(|member| async {
            let shown = match self.ask(&member.peer, &MemberRequest::Show).await {
                Ok(MemberAnswer::Shown(shown)) => Ok(shown),
                Ok(MemberAnswer::Refused { why }) => Err(why),
                Ok(other) => Err(format!("it answered {other:?}")),
                Err(error) => Err(chain(&error)),
            };
            let (node_id, name) = (member.peer.id, member.peer.info.name.clone());
            Seen { node_id, name, voter: member.voter, shown }
        });
        futures_util::future::join_all(asked).await
    }
}

fn next_step(record: &CaRecord, members: &[Seen]) -> Step {
    if let Some(next) = record.of(Stage::Next) {
        let heard = members.iter().all(|seen| seen.shown.is_ok());
        let held = members.iter().any(|seen| seen.voter && seen.has_key_of(next));
        if heard && !held {
            return Step::GiveUp;
        }
        return due_when_all(members, |seen| seen.lacks_for(next), Step::Activate);
    }
    if record.of(Stage::Retiring).is_some() {
        return due_when_all(members, |seen| seen.still_uses_other_than(record.active()), Step::Forget);
    }
    Step::Nothing
}

fn due_when_all(members: &[Seen], lacks: impl Fn(&Seen) -> Option<String>, step: Step) -> Step {
    let waiting: Vec<Waiting> = members
        .iter()
        .filter_map(|seen| Some(Waiting { node_id: seen.node_id, name: seen.name.clone(), why: lacks(seen)? }))
        .collect();
    if waiting.is_empty() { step } else { Step::Wait(waiting) }
}

impl Seen {
    fn has_key_of(&self, generation: &Generation) -> bool {
        self.shown.as_ref().is_ok_and(|shown| shown.sealing_keys.contains(&generation.sealing_key))
    }

    fn lacks_for(&self, next: &Generation) -> Option<String> {
        let shown = match &self.shown {
            Ok(shown) => shown,
            Err(why) => return Some(format!("it does not answer: {why}")),
        };
        if !shown.roots.contains(&fingerprint(&next.certificate)) {
            return Some(format!("it does not trust authority {} yet", next.number));
        }
        (self.voter && !self.has_key_of(next)).then(|| format!("it lacks sealing key {}", next.sealing_key))
    }

    fn still_uses_other_than(&self, active: &Generation) -> Option<String> {
        let shown = match &self.shown {
            Ok(shown) => shown,
            Err(why) => return Some(format!("it does not answer: {why}")),
        };
        let key = Facts::of(&active.certificate).ok().and_then(|facts| facts.key_id);
        (key.as_deref() != Some(shown.issuer.as_slice()))
            .then(|| format!("its certificate is not of authority {} yet", active.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ca::{Ca, SealingKey};

    struct Rotation {
        first: CaRecord,
        both: CaRecord,
        old: SealingKey,
        new: SealingKey,
    }

    fn rotation() -> Rotation {
        let (old, new) = (SealingKey::create().unwrap(), SealingKey::create().unwrap());
        let cas = [1, 2].map(|_| Ca::create([7; 16], 1_800_000_000_000).unwrap());
        let first = CaRecord::founded(cas[0].seal([7; 16], (1, Stage::Active), &old, None).unwrap());
        let next = cas[1].seal([7; 16], (2, Stage::Next), &new, Some(&cas[0])).unwrap();
        let both = first.with_next(next).unwrap();
        Rotation { first, both, old, new }
    }

    /// A member that trusts what `record` says, has a certificate of generation `issuer` of it, and these keys.
    fn seen(node_id: u64, voter: bool, record: &CaRecord, issuer: usize, keys: &[&SealingKey]) -> Seen {
        let key_id = Facts::of(&record.generations()[issuer].certificate).unwrap().key_id.unwrap();
        let shown = Shown {
            issuer: key_id,
            not_after_ms: 0,
            roots: record.roots().iter().map(fingerprint).collect(),
            sealing_keys: keys.iter().map(|key| key.id()).collect(),
        };
        Seen { node_id, name: format!("n{node_id}"), voter, shown: Ok(shown) }
    }

    fn silent(node_id: u64) -> Seen {
        Seen { node_id, name: format!("n{node_id}"), voter: true, shown: Err("it is down".to_owned()) }
    }

    fn waits_for(step: &Step) -> Vec<(u64, &str)> {
        match step {
            Step::Wait(waiting) => waiting.iter().map(|w| (w.node_id, w.why.as_str())).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_next_authority_signs_when_all_trust_it_and_every_voter_can_sign_with_it() {
        let Rotation { first, both, old, new } = rotation();
        assert_eq!(next_step(&first, &[seen(1, true, &first, 0, &[&old])]), Step::Nothing);
        let leader = || seen(1, true, &both, 0, &[&old, &new]);
        let behind = seen(2, true, &first, 0, &[&old, &new]);
        let step = next_step(&both, &[leader(), behind]);
        assert_eq!(waits_for(&step), [(2, "it does not trust authority 2 yet")]);
        let step = next_step(&both, &[leader(), seen(2, true, &both, 0, &[&old])]);
        assert_eq!(waits_for(&step), [(2, format!("it lacks sealing key {}", new.id()).as_str())]);
        assert_eq!(waits_for(&next_step(&both, &[leader(), silent(2)])), [(2, "it does not answer: it is down")]);
        let learner = seen(3, false, &both, 0, &[]);
        assert_eq!(next_step(&both, &[leader(), learner]), Step::Activate, "a learner never signs");
    }

    #[test]
    fn the_old_authority_is_forgotten_when_nobody_shows_a_certificate_of_it() {
        let Rotation { both, old, new, .. } = rotation();
        let turned = both.with_next_active().unwrap();
        let (uses_old, uses_new) = (seen(2, true, &turned, 0, &[&old, &new]), seen(1, true, &turned, 1, &[&new]));
        let step = next_step(&turned, &[uses_new.clone(), uses_old]);
        assert_eq!(waits_for(&step), [(2, "its certificate is not of authority 2 yet")]);
        assert_eq!(waits_for(&next_step(&turned, &[uses_new.clone(), silent(2)])).len(), 1);
        assert_eq!(next_step(&turned, &[uses_new]), Step::Forget);
    }

    #[test]
    fn an_authority_whose_key_nobody_holds_is_given_up_only_when_everybody_said_so() {
        let Rotation { both, old, .. } = rotation();
        let without = |id| seen(id, true, &both, 0, &[&old]);
        assert_eq!(next_step(&both, &[without(2), without(3)]), Step::GiveUp);
        assert!(matches!(next_step(&both, &[without(2), silent(1)]), Step::Wait(_)), "node 1 may hold it");
    }
}
