//! The account of what the shared objects must hold, from what was acknowledged and what is in doubt.

use super::shared::{Act, Done, Stock};
use std::collections::HashSet;

/// What was put into one container, and taken out.
#[derive(Debug, Default)]
struct Contents {
    put: HashSet<u64>,
    maybe_put: HashSet<u64>,
    got: HashSet<u64>,
    /// How many got something, perhaps, and died with it.
    gets_lost: usize,
}

impl Contents {
    /// Compares with what was found at the end.
    fn check(&mut self, what: &str, found: Vec<u64>) -> Result<(), String> {
        for value in found {
            if !self.got.insert(value) {
                return Err(format!("the {what} had {value} twice"));
            }
        }
        if let Some(stranger) = self
            .got
            .iter()
            .find(|value| !self.put.contains(value) && !self.maybe_put.contains(value))
        {
            return Err(format!("the {what} had {stranger}, which nobody has put"));
        }
        let missing: Vec<&u64> = self.put.difference(&self.got).collect();
        if missing.len() > self.gets_lost {
            return Err(format!(
                "the {what} has lost {} values, and only {} can have died with one: {missing:?}",
                missing.len(),
                self.gets_lost
            ));
        }
        Ok(())
    }
}

/// How often something was counted up.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    sure: u64,
    maybe: u64,
}

impl Count {
    fn check(self, what: &str, found: u64) -> Result<(), String> {
        if (self.sure..=self.sure + self.maybe).contains(&found) {
            return Ok(());
        }
        Err(format!("{what} is {found}: {} were acknowledged, {} were not", self.sure, self.maybe))
    }
}

/// What must be in the shared objects.
#[derive(Debug, Default)]
pub(crate) struct Account {
    list: Contents,
    dict: Contents,
    queue: Contents,
    chores: Contents,
    pipe: Contents,
    counts: [Count; 7],
    names: Contents,
    /// What the first has decided, as all must see it.
    first: Option<u64>,
    maybe_first: HashSet<u64>,
}

/// What an act changes.
enum Entry<'a> {
    In(&'a mut Contents),
    Out(&'a mut Contents),
    Count(&'a mut Count),
    None,
}

impl Account {
    fn entry(&mut self, act: Act) -> Entry<'_> {
        match act {
            Act::Push => Entry::In(&mut self.list),
            Act::Pop => Entry::Out(&mut self.list),
            Act::Insert => Entry::In(&mut self.dict),
            Act::Remove => Entry::Out(&mut self.dict),
            Act::Put => Entry::In(&mut self.queue),
            Act::Get => Entry::Out(&mut self.queue),
            Act::PutChore => Entry::In(&mut self.chores),
            Act::DoChore => Entry::Out(&mut self.chores),
            Act::Total => Entry::Count(&mut self.counts[0]),
            Act::Pair => Entry::Count(&mut self.counts[1]),
            Act::Note => Entry::Count(&mut self.counts[2]),
            Act::Write => Entry::Count(&mut self.counts[3]),
            Act::Add => Entry::Count(&mut self.counts[4]),
            Act::AddToArray => Entry::Count(&mut self.counts[5]),
            Act::Nest => Entry::Count(&mut self.counts[6]),
            Act::Name => Entry::In(&mut self.names),
            Act::Send => Entry::In(&mut self.pipe),
            Act::Receive => Entry::Out(&mut self.pipe),
            _ => Entry::None,
        }
    }

    /// An act was acknowledged.
    ///
    /// # Errors
    /// Something was got twice.
    pub(crate) fn acknowledged(&mut self, act: Act, id: u64, done: Done) -> Result<(), String> {
        if let (Act::First, Done::Got(value)) = (act, done) {
            self.maybe_first.insert(id);
            return self.see_first(value);
        }
        match (self.entry(act), done) {
            (Entry::In(contents), Done::Changed) => drop(contents.put.insert(id)),
            (Entry::Out(contents), Done::Got(value)) => {
                let first = contents.got.insert(value);
                return if first {
                    Ok(())
                } else {
                    Err(format!("{act:?} has given {value} again"))
                };
            }
            (Entry::Count(count), Done::Changed) => count.sure += 1,
            _ => {}
        }
        Ok(())
    }

    /// Who did it has died, and it is done or not.
    pub(crate) fn in_doubt(&mut self, act: Act, id: u64) {
        if act == Act::First {
            self.maybe_first.insert(id);
        }
        match self.entry(act) {
            Entry::In(contents) => drop(contents.maybe_put.insert(id)),
            Entry::Out(contents) => contents.gets_lost += 1,
            Entry::Count(count) => count.maybe += 1,
            Entry::None => {}
        }
    }

    /// Notes what somebody saw that the first had decided.
    fn see_first(&mut self, value: u64) -> Result<(), String> {
        match self.first.replace(value) {
            Some(other) if other != value => {
                Err(format!("the first was {other} for one, and {value} for another"))
            }
            _ => Ok(()),
        }
    }

    /// Compares the account with what there is.
    ///
    /// # Errors
    /// What is not as it must be.
    pub(crate) fn check(mut self, stock: Stock) -> Result<(), String> {
        let Stock { contents, counts, named, first } = stock;
        let containers =
            [&mut self.list, &mut self.dict, &mut self.queue, &mut self.chores, &mut self.pipe];
        let names = ["list", "dict", "queue", "joinable queue", "pipe"];
        for ((container, name), found) in containers.into_iter().zip(names).zip(contents) {
            container.check(name, found)?;
        }
        let names = [
            "the sum of the totals",
            "the pair",
            "the note",
            "the table",
            "the value",
            "the sum of the array",
            "the number of steps",
        ];
        for ((count, name), found) in self.counts.into_iter().zip(names).zip(counts) {
            count.check(name, found)?;
        }
        // A name that is given again hides what it was before.
        self.names.gets_lost = usize::MAX;
        self.names.check("namespace", named)?;
        if let Some(first) = first {
            self.see_first(first)?;
            if !self.maybe_first.contains(&first) {
                return Err(format!("the first was {first}, which nobody has proposed"));
            }
        } else if let Some(seen) = self.first {
            return Err(format!("the first was {seen}, and is forgotten"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        let mut account = Account::default();
        account.acknowledged(Act::Put, 1, Done::Changed).unwrap();
        account.acknowledged(Act::First, 5, Done::Got(5)).unwrap();
        account.acknowledged(Act::Nest, 6, Done::Changed).unwrap();
        account.in_doubt(Act::Nest, 7);
        account
    }

    fn stock(queued: Vec<u64>, steps: u64, first: Option<u64>) -> Stock {
        let contents = [vec![], vec![], queued, vec![], vec![]];
        Stock { contents, counts: [0, 0, 0, 0, 0, 0, steps], named: vec![], first }
    }

    #[test]
    fn what_is_lost_there_twice_or_of_another_shows() {
        assert_eq!(account().check(stock(vec![1], 1, Some(5))), Ok(()));
        assert_eq!(account().check(stock(vec![1], 2, Some(5))), Ok(()));
        for wrong in [
            stock(vec![], 1, Some(5)),
            stock(vec![1, 1], 1, Some(5)),
            stock(vec![1, 2], 1, Some(5)),
            stock(vec![1], 0, Some(5)),
            stock(vec![1], 3, Some(5)),
            stock(vec![1], 1, Some(6)),
            stock(vec![1], 1, None),
        ] {
            let text = format!("{wrong:?}");
            assert!(account().check(wrong).is_err(), "{text}");
        }
        assert!(account().acknowledged(Act::First, 9, Done::Got(9)).is_err());
    }
}
