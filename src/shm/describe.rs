//! The words of the arena itself as text, for whoever looks for a bug.

use super::arena::Arena;

impl Arena {
    /// The header with allocator and tables, without what is in it of the key; and every participant.
    pub(crate) fn describe(&self) -> Vec<String> {
        let mut header = without_zeros(&format!("{:?}", self.header()));
        if let Some(start) = header.find("key: [")
            && let Some(length) = header[start..].find(']')
        {
            header.replace_range(start..=start + length, "key: ..");
        }
        let mut lines = vec![header];
        lines.extend(self.describe_participants());
        lines
    }
}

/// A list of numbers with runs of zeros cut short: `[0, 0, 0, 7]` is `[0 .., 7]`.
fn without_zeros(text: &str) -> String {
    let mut short: Vec<&str> = Vec::new();
    for part in text.split(", ") {
        match (part, short.last()) {
            ("0", Some(&"0" | &"[0 ..")) => {}
            ("0", Some(last)) if last.ends_with("[0") => {}
            _ => short.push(part),
        }
    }
    short.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::ParticipantId;

    #[test]
    fn runs_of_zeros_are_cut_short_and_nothing_else_is() {
        assert_eq!(
            without_zeros("A { b: [0, 0, 0, 7, 0, 0], c: 0 }"),
            "A { b: [0, 7, 0, 0], c: 0 }"
        );
        assert_eq!(without_zeros("[0, 0, 10, 0]"), "[0, 10, 0]");
    }

    #[test]
    fn a_reserved_entry_is_there_and_the_key_is_not() {
        let arena = Arena::create(4 << 20).unwrap();
        arena.key()[1].store(0x1234_5678_9abc, crate::prim::Relaxed);
        arena.reserve_participant(ParticipantId::NOBODY).unwrap();
        let lines = arena.describe().join("\n");
        assert!(lines.contains("participant 1: RESERVED"), "{lines}");
        assert!(
            lines.contains("allocator: AllocatorState") && lines.contains("key: .."),
            "{lines}"
        );
        assert!(!lines.contains(&0x1234_5678_9abc_u64.to_string()), "{lines}");
    }
}
