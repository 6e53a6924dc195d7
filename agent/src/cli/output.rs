//! How commands print what they found: as a table, a wider table, JSON or YAML.
//!
//! In: a document, and its rows for people. Out: text on standard output. Cells hold no control characters, since agents
//! choose many of the names in them; there are colours on a terminal only, and a reader that goes early is no error.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use crate::audit::invisible::escape;

const BOLD: &str = "\u{1b}[1m";
const PLAIN: &str = "\u{1b}[0m";

/// Between two columns.
const GAP: usize = 3;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// More of them.
    Wide,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    name: &'static str,
    /// Whether `-o wide` alone shows it.
    wide: bool,
    /// Whether it holds numbers, which stand at the right.
    number: bool,
}

impl Column {
    /// A column of text.
    pub(super) const fn text(name: &'static str) -> Column {
        Column {
            name,
            wide: false,
            number: false,
        }
    }

    /// A column of numbers.
    pub(super) const fn number(name: &'static str) -> Column {
        Column {
            number: true,
            ..Column::text(name)
        }
    }

    /// Shown with `-o wide` alone.
    pub(super) const fn wide(self) -> Column {
        Column { wide: true, ..self }
    }
}

/// What is a row of a table.
pub(super) trait Row {
    /// The columns, in order.
    const COLUMNS: &'static [Column];

    /// One cell for each.
    fn cells(&self, format: Format) -> Vec<String>;
}

/// Prints the document, or its rows as a table; without any, nothing but `none` on standard error.
pub(super) fn print<R: Row>(
    format: Format,
    document: &impl Serialize,
    rows: &[R],
    none: &str,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, document)?;
            writeln!(out)?;
        }
        Format::Yaml => {
            let text = serde_saphyr::to_string(document).map_err(io::Error::other)?;
            writeln!(out, "{}", text.trim_end())?;
        }
        Format::Table | Format::Wide if rows.is_empty() => warn(format_args!("{none}")),
        Format::Table | Format::Wide => out.write_all(table(format, rows, colours()).as_bytes())?,
    }
    out.flush()
}

/// Prints what stands before tables: a name and a value a line.
pub(super) fn fields(fields: &[(&str, String)]) -> io::Result<()> {
    let width = fields
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or_default()
        + 1;
    let mut out = io::stdout().lock();
    for (name, value) in fields {
        writeln!(out, "{:<width$}  {}", format!("{name}:"), clean(value))?;
    }
    out.flush()
}

/// Prints a table under its title, or `none` in its place.
pub(super) fn section<R: Row>(title: &str, rows: &[R], none: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let body = match rows.is_empty() {
        true => format!("{}\n", clean(none)),
        false => table(Format::Table, rows, colours()),
    };
    writeln!(out, "\n{title}:")?;
    for line in body.lines() {
        writeln!(out, "  {line}")?;
    }
    out.flush()
}

/// Prints a line for people on standard output. Whether anybody reads it changes nothing of what the command does: `println!` would
/// end a command in its middle where the reader of a pipe went.
pub(super) fn say(line: fmt::Arguments<'_>) {
    let _unread = writeln!(io::stdout().lock(), "{line}");
}

/// Likewise on standard error.
pub(super) fn warn(line: fmt::Arguments<'_>) {
    let _unread = writeln!(io::stderr().lock(), "{line}");
}

/// Whether standard output is a terminal that is to have colours (https://no-color.org).
pub(super) fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// Whether the reader of standard output went, as `head` does: no error of the command's.
pub(super) fn reader_went(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The rows as a table.
pub(super) fn table<R: Row>(format: Format, rows: &[R], colour: bool) -> String {
    let shown: Vec<usize> = (0..R::COLUMNS.len())
        .filter(|column| format == Format::Wide || !R::COLUMNS[*column].wide)
        .collect();
    let pick = |cells: Vec<String>| -> Vec<String> {
        shown
            .iter()
            .map(|column| clean(cells.get(*column).map_or("", String::as_str)))
            .collect()
    };
    let head = pick(R::COLUMNS.iter().map(|column| column.name.to_owned()).collect());
    let body: Vec<Vec<String>> = rows.iter().map(|row| pick(row.cells(format))).collect();
    let width = |place: usize| {
        let cells = body
            .iter()
            .chain([&head])
            .map(|cells| cells[place].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..shown.len()).map(width).collect();
    let mut text = String::new();
    for (number, cells) in [&head].into_iter().chain(&body).enumerate() {
        let mut line = String::new();
        for (place, cell) in cells.iter().enumerate() {
            let width = widths[place];
            if R::COLUMNS[shown[place]].number {
                line.push_str(&format!("{cell:>width$}"));
            } else {
                line.push_str(&format!("{cell:<width$}"));
            }
            line.push_str(&" ".repeat(GAP));
        }
        let line = line.trim_end();
        if number == 0 && colour {
            text.push_str(&format!("{BOLD}{line}{PLAIN}\n"));
        } else {
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

/// The text with what cannot be seen escaped, so that a name cannot move the cursor, begin a line of its own or hide a part of
/// itself.
pub(super) fn clean(text: &str) -> String {
    escape(text).into_owned()
}

/// A moment for people: to the second, in UTC. Programs read the whole of it.
pub(super) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time that passed, as kubectl shows it: `45s`, `12m`, `3h`, `9d`.
pub(super) fn age(passed: Duration) -> String {
    match passed.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// A number of bytes in three digits or so: `512 B`, `1.5 KiB`, `20 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" || value >= 10.0 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(&'static str, u64);

    impl Row for Pair {
        const COLUMNS: &'static [Column] = &[
            Column::text("NAME"),
            Column::text("FULL").wide(),
            Column::number("COUNT"),
            Column::text("END"),
        ];

        fn cells(&self, _format: Format) -> Vec<String> {
            vec![
                self.0.into(),
                format!("{}!", self.0),
                self.1.to_string(),
                "x".into(),
            ]
        }
    }

    #[test]
    fn columns_are_aligned_and_wide_ones_shown_when_asked_for() {
        let rows = [Pair("a", 7), Pair("much-longer", 1234)];
        assert_eq!(
            table(Format::Table, &rows, false),
            "NAME          COUNT   END\na                 7   x\nmuch-longer    1234   x\n"
        );
        assert!(table(Format::Wide, &rows, false).starts_with("NAME          FULL           COUNT   END\n"));
        let coloured = table(Format::Table, &rows, true);
        assert!(
            coloured.starts_with("\u{1b}[1mNAME")
                && coloured.lines().nth(1) == Some("a                 7   x")
        );
    }

    #[test]
    fn a_name_cannot_begin_a_line_or_move_the_cursor() {
        let text = table(Format::Table, &[Pair("a\nb\u{1b}[2J", 1)], false);
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn moments_are_whole_seconds() {
        for (at, text) in [
            ("2026-10-30T08:52:32.502914417Z", "2026-10-30T08:52:32Z"),
            ("2026-10-30T10:52:32.999+02:00", "2026-10-30T08:52:32Z"),
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ] {
            assert_eq!(moment(at.parse().expect("a moment")), text);
        }
    }

    #[test]
    fn ages_and_sizes_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7_200, "2h"),
            (200_000, "2d"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (20 << 20, "20 MiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
