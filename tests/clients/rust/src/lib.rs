//! Prints steps as tests/clients/README.md asks, and reads those of lib/sql/steps.sql. Knows no driver.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// SQLSTATE and message of an error of the program's driver, as far as the driver tells.
pub type Fault = fn(&anyhow::Error) -> Option<(String, String)>;

/// The steps of one program, printed as they end.
pub struct Steps {
    refused: RefCell<HashSet<String>>,
    fault: Fault,
}

impl Steps {
    pub fn new(fault: Fault) -> Self {
        Self { refused: RefCell::default(), fault }
    }

    /// Whether the step may run: the one it needs was not refused. Says so if not.
    pub fn may_run(&self, name: &str, after: &str) -> bool {
        let missing = self.refused.borrow().contains(after);
        if missing {
            self.refused.borrow_mut().insert(name.to_owned());
            println!("{name}\tSKIPPED after {after}");
        }
        !missing
    }

    /// Prints how a step ended.
    pub fn ended(&self, name: &str, result: anyhow::Result<String>) {
        let text = match result {
            Ok(text) => text,
            Err(error) => {
                self.refused.borrow_mut().insert(name.to_owned());
                let (code, message) =
                    (self.fault)(&error).unwrap_or_else(|| ("-----".to_owned(), format!("{error:#}")));
                let message = message.lines().next().unwrap_or_default().to_owned();
                if code == "0A000" {
                    format!("REFUSED 0A000 {message}")
                } else {
                    eprintln!("{name}: {error:?}");
                    format!("ERROR {code} Error {message}")
                }
            }
        };
        println!("{name}\t{}", text.split_whitespace().collect::<Vec<_>>().join(" "));
    }

    /// The code of a failure that a step expects; a refusal stays a refusal.
    pub fn expected<T, E: Into<anyhow::Error>>(&self, result: Result<T, E>) -> anyhow::Result<String> {
        let Err(error) = result else { return Ok("no failure".to_owned()) };
        let error = error.into();
        match (self.fault)(&error) {
            Some((code, _)) if code != "0A000" => Ok(code),
            _ => Err(error),
        }
    }
}

/// A parameter of a statement in lib/sql/steps.sql.
#[derive(Clone, Debug)]
pub enum Param {
    Saved(String),
    Text(String),
    Number(i64),
}

/// A statement of lib/sql/steps.sql.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    pub text: String,
    pub params: Vec<Param>,
    pub save: Option<String>,
}

/// The statements of lib/sql/steps.sql by step.
pub fn statements() -> HashMap<String, Vec<Statement>> {
    let mut steps: HashMap<String, Vec<Statement>> = HashMap::new();
    let (mut name, mut next) = (String::new(), Statement::default());
    for line in include_str!("../../lib/sql/steps.sql").lines() {
        if let Some(step) = line.strip_prefix("-- step: ") {
            name = step.to_owned();
        } else if let Some(params) = line.strip_prefix("-- params: ") {
            next.params = params.split(", ").map(param).collect();
        } else if let Some(save) = line.strip_prefix("-- save: ") {
            next.save = Some(save.to_owned());
        } else if !line.is_empty() && !line.starts_with("--") {
            next.text.push_str(line.trim_end_matches(';'));
            next.text.push('\n');
            if line.ends_with(';') {
                steps.entry(name.clone()).or_default().push(std::mem::take(&mut next));
            }
        }
    }
    steps
}

fn param(text: &str) -> Param {
    match text.split_at(1) {
        ("@", name) => Param::Saved(name.to_owned()),
        ("'", _) => Param::Text(text.trim_matches('\'').to_owned()),
        _ => Param::Number(text.parse().expect("a number, a text or a saved name")),
    }
}

/// The statements of a step as one script, without those that ask.
pub fn script(step: &str) -> String {
    let list = statements().remove(step).unwrap_or_default();
    let changes = list.iter().filter(|statement| statement.params.is_empty() && !statement.text.starts_with("SELECT"));
    changes.map(|statement| format!("{};\n", statement.text.trim_end())).collect()
}
