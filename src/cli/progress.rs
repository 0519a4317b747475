//! What is going on, for whoever watches: bars on a terminal, lines in a log, events for a parent.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// One piece of news. A detached `up` writes them to its parent, one JSON text a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// So many items are to be done.
    Total {
        /// How many.
        items: u64,
    },
    /// What an item is at.
    Item {
        /// Its name.
        name: String,
        /// What it does.
        text: String,
        /// It is done.
        done: bool,
    },
    /// The cluster serves.
    Ready {
        /// The final document.
        document: serde_json::Value,
    },
    /// It failed.
    Failed {
        /// Why.
        message: String,
    },
}

/// Shows events.
#[derive(Debug)]
pub enum Progress {
    /// Bars on a terminal.
    Bars(Bars),
    /// Lines on standard error.
    Lines,
    /// Events on standard output.
    Events,
}

/// Bars on a terminal.
#[derive(Debug)]
pub struct Bars {
    multi: MultiProgress,
    total: ProgressBar,
    items: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Progress {
    /// Bars where standard error is a terminal, else lines.
    pub fn for_people() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines;
        }
        let multi = MultiProgress::new();
        let style = ProgressStyle::with_template("{bar:32.cyan} {pos}/{len} {msg}");
        let total = multi.add(ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
        Self::Bars(Bars { multi, total, items: Mutex::default() })
    }

    /// Says how many items are to be done.
    pub fn total(&self, items: usize) {
        self.show(&Event::Total { items: items as u64 });
    }

    /// Says what an item is at.
    pub fn item(&self, name: &str, text: &str) {
        self.show(&Event::Item { name: name.to_owned(), text: text.to_owned(), done: false });
    }

    /// Says that an item is done.
    pub fn done(&self, name: &str, text: &str) {
        self.show(&Event::Item { name: name.to_owned(), text: text.to_owned(), done: true });
    }

    /// Shows one piece of news.
    pub fn show(&self, event: &Event) {
        match (self, event) {
            (Self::Bars(bars), event) => bars.show(event),
            (Self::Lines, Event::Item { name, text, .. }) => write_line(std::io::stderr(), &format!("{name}: {text}")),
            (Self::Lines, _) => {}
            (Self::Events, event) => {
                if let Ok(text) = serde_json::to_string(event) {
                    write_line(std::io::stdout(), &text);
                }
            }
        }
    }

    /// Takes the bars away, so that what follows stands alone.
    pub fn clear(&self) {
        if let Self::Bars(bars) = self {
            for bar in bars.items.lock().values() {
                bar.finish_and_clear();
            }
            bars.total.finish_and_clear();
            // Only the looks of a terminal depend on it.
            let _ = bars.multi.clear();
        }
    }
}

impl Bars {
    fn show(&self, event: &Event) {
        match event {
            Event::Total { items } => self.total.set_length(*items),
            Event::Item { name, text, done } => {
                let mut items = self.items.lock();
                let bar = items.entry(name.clone()).or_insert_with(|| self.new_item(name));
                bar.set_message(text.clone());
                if *done {
                    bar.finish();
                    self.total.inc(1);
                }
            }
            Event::Ready { .. } | Event::Failed { .. } => {}
        }
    }

    fn new_item(&self, name: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("  {spinner:.cyan} {prefix:8} {msg:.dim} {elapsed:.dim}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = self.multi.insert_before(&self.total, ProgressBar::new_spinner().with_style(style));
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}

/// Progress is never worth failing for: the reader may be gone.
fn write_line(mut to: impl Write, text: &str) {
    let _ = to.write_all(format!("{text}\n").as_bytes()).and_then(|()| to.flush());
}
