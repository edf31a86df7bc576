//! What was counted before, what may differ from it, and what to say when more does.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;

/// The command that [`Baseline::write`]s.
const COMMAND: &str =
    "RINGTUN_RECORD=1 cargo test --profile count -p ringtun-tests --test instructions";
const MADE_BY: &str = "made by ";

/// Counts, and with which tools they were made.
#[derive(Debug, PartialEq)]
pub(crate) struct Baseline {
    pub(crate) made_by: String,
    /// Instructions a packet, by case.
    pub(crate) counts: BTreeMap<String, f64>,
}

impl Baseline {
    /// The committed one.
    pub(crate) fn read() -> Self {
        let path = path();
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; make it by: {COMMAND}", path.display()));
        Self::parse(&text)
    }

    /// Takes the place of the committed one.
    pub(crate) fn write(&self) {
        fs::write(path(), self.to_string()).unwrap();
        println!("{} is written: commit it with what changed the counts", path().display());
    }

    fn parse(text: &str) -> Self {
        let mut baseline = Self { made_by: String::new(), counts: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(made_by) = line.strip_prefix(MADE_BY) {
                made_by.clone_into(&mut baseline.made_by);
                continue;
            }
            let (name, count) = line
                .split_once(' ')
                .and_then(|(name, count)| Some((name, count.trim().parse().ok()?)))
                .unwrap_or_else(|| panic!("{line:?} is no name and count; write anew: {COMMAND}"));
            baseline.counts.insert(name.to_owned(), count);
        }
        baseline
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Instructions a packet, without those of ring. Written by:")?;
        writeln!(f, "# {COMMAND}")?;
        writeln!(f, "{MADE_BY}{}", self.made_by)?;
        self.counts.iter().try_for_each(|(name, count)| writeln!(f, "{name:<26} {count:>8.1}"))
    }
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions/baseline.txt")
}

/// How far a count may be from the one recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Margin {
    /// Of the same tools: one part in fifty, either way.
    Narrow,
    /// Of others, which compile the same code to a little less or more: a sixth more.
    Wide,
}

impl Margin {
    pub(crate) fn between(made_by: &str, recorded_by: &str) -> Self {
        if made_by == recorded_by { Self::Narrow } else { Self::Wide }
    }

    /// What is wrong with `now`, in words.
    pub(crate) fn verdict(self, now: Option<f64>, recorded: Option<f64>) -> Result<(), String> {
        let (now, recorded) = match (now, recorded) {
            (Some(now), Some(recorded)) => (now, recorded),
            (None, _) => return Err(format!("there is no such case any more; record: {COMMAND}")),
            (_, None) => return Err(format!("this case is new; record it: {COMMAND}")),
        };
        let percent = (now / recorded - 1.0) * 100.0;
        // Where there are few, one more or less is nothing.
        let slack = 1.0_f64.max(recorded * self.part());
        let change = format!("{now:.1} instructions a packet, {recorded:.1} were recorded");
        if now > recorded + slack {
            return Err(format!(
                "{change}: {percent:.1} % more. If that buys something, say what and record it: \
                 {COMMAND}"
            ));
        }
        if matches!(self, Self::Narrow) && now < recorded - slack {
            let fewer = -percent;
            return Err(format!(
                "{change}: {fewer:.1} % fewer. Well done; record it, so that it stays: {COMMAND}"
            ));
        }
        Ok(())
    }

    fn part(self) -> f64 {
        match self {
            Self::Narrow => 0.02,
            Self::Wide => 0.16,
        }
    }
}

impl fmt::Display for Margin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.part() * 100.0;
        match self {
            Self::Narrow => write!(f, "{percent} % more or fewer are allowed"),
            Self::Wide => write!(f, "recorded with other tools: {percent} % more are allowed"),
        }
    }
}

/// Tests of this file, which run with the rest: a guard that lets everything pass guards nothing.
pub(crate) fn self_tests() -> Vec<Trial> {
    let test = |name: &str, run: fn()| {
        Trial::test(format!("baseline/{name}"), move || {
            run();
            Ok(())
        })
    };
    vec![
        test("more_fails_with_the_command", || {
            let said = Margin::Narrow.verdict(Some(103.0), Some(100.0)).unwrap_err();
            assert!(said.contains("3.0 % more") && said.contains(COMMAND), "{said}");
            let said = Margin::Wide.verdict(Some(117.0), Some(100.0)).unwrap_err();
            assert!(said.contains("17.0 % more"), "{said}");
        }),
        test("fewer_fails_only_with_the_same_tools", || {
            let said = Margin::Narrow.verdict(Some(90.0), Some(100.0)).unwrap_err();
            assert!(said.contains("10.0 % fewer") && said.contains(COMMAND), "{said}");
            assert_eq!(Margin::Wide.verdict(Some(50.0), Some(100.0)), Ok(()));
        }),
        test("a_little_passes", || {
            for (now, recorded) in [(101.9, 100.0), (98.1, 100.0), (9.0, 8.1), (8.1, 9.0)] {
                assert_eq!(Margin::Narrow.verdict(Some(now), Some(recorded)), Ok(()));
            }
            assert_eq!(Margin::Wide.verdict(Some(115.0), Some(100.0)), Ok(()));
        }),
        test("a_case_on_one_side_only_fails", || {
            assert!(Margin::Wide.verdict(None, Some(1.0)).unwrap_err().contains("no such case"));
            assert!(Margin::Wide.verdict(Some(1.0), None).unwrap_err().contains("is new"));
        }),
        test("what_is_written_can_be_read", || {
            let counts = [("a/b".to_owned(), 1.5), ("c/d".to_owned(), 12_345.0)].into();
            let baseline = Baseline { made_by: "rustc 1, glibc 2".to_owned(), counts };
            assert_eq!(Baseline::parse(&baseline.to_string()), baseline);
        }),
    ]
}
