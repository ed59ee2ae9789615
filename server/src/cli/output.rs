//! [`Output`]: one model of what a verb says, shown as JSON or as a table.
//!
//! A verb builds a serializable value; JSON prints it as it is, a table prints the same fields: one object as two columns,
//! a list of objects as rows. Ids and zxids are strings ([`id`]), because JSON numbers lose digits beyond 2^53. Results go
//! to standard output, everything else to standard error, where `--quiet` silences it.
//!
//! Absent: colours, terminal detection beyond whether a newline is owed after raw data.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

use super::exit::{Failure, Outcome};
pub use crate::json::{acl, data, id, stat};

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs; the shapes are stable.
    Json,
}

/// Where and how results are shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// Table or JSON.
    pub format: Format,
    /// Only results, no remarks.
    pub quiet: bool,
}

impl Output {
    /// Whether results are JSON.
    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Shows a result.
    ///
    /// Errors: standard output is gone.
    pub fn show(self, result: &impl Serialize) -> Outcome {
        let value = serde_json::to_value(result).map_err(|error| Failure::failed(error.to_string()))?;
        match self.format {
            Format::Json => self.line(&value.to_string()),
            Format::Table if value.as_array().is_some_and(Vec::is_empty) => Ok(()),
            Format::Table => self.line(&table(&value)),
        }
    }

    /// Prints text and a newline, as one write.
    ///
    /// Errors: standard output is gone.
    pub fn line(self, text: &str) -> Outcome {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Prints bytes as they are.
    ///
    /// Errors: standard output is gone. A closed pipe is the reader's wish, and ends the process quietly.
    pub fn raw(self, bytes: &[u8]) -> Outcome {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            other => Ok(other?),
        }
    }

    /// Says something that is no result.
    pub fn remark(self, text: &str) {
        if !self.quiet {
            // Standard error may be closed; a remark is not worth failing for.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Whether a person looks at standard output.
    pub fn is_terminal(self) -> bool {
        io::stdout().is_terminal()
    }
}

fn table(value: &Value) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                table.add_row([name.clone(), cell(value)]);
            }
        }
        Value::Array(rows) => {
            let Some(Value::Object(first)) = rows.first() else {
                return rows.iter().map(cell).collect::<Vec<_>>().join("\n");
            };
            table.set_header(first.keys().map(|name| name.to_uppercase()));
            for row in rows {
                table.add_row(first.keys().map(|name| row.get(name).map_or_else(String::new, cell)));
            }
            for (name, column) in first.keys().zip(0..) {
                if rows.iter().all(|row| row.get(name).is_some_and(Value::is_number))
                    && let Some(column) = table.column_mut(column)
                {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        other => return cell(other),
    }
    table.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n")
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Array(items) if !items.iter().any(Value::is_object) => {
            items.iter().map(cell).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_show_the_same_fields_as_json() {
        let rows = json!([{"name": "a", "size": 5, "up": true}, {"name": "bb", "size": 12, "up": false}]);
        let text = table(&rows);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [["NAME", "SIZE", "UP"], ["a", "5", "yes"], ["bb", "12", "no"]]);
        let one = table(&json!({"leader": "2", "members": ["1", "2"], "none": null}));
        let lines: Vec<Vec<&str>> = one.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [["leader", "2"], ["members", "1,2"], ["none", "-"]]);
    }
}
