//! The figures side by side: a table for people, the same as Markdown for the README, and JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::plan::{Measure, Protocol};

/// One line: a case, and what each way to the upstream measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Such as `fast/latency-p50`.
    pub(crate) case: String,
    /// `http1`, `http2`, or empty where there is no such thing.
    pub(crate) protocol: String,
    /// Such as `us`.
    pub(crate) unit: String,
    /// Without anything in between; nothing where that has no meaning.
    pub(crate) direct: Option<f64>,
    pub(crate) picket: Option<f64>,
    pub(crate) nginx: Option<f64>,
}

/// One row per case and protocol, in the order in which they were measured first.
pub(crate) fn rows(upstream: &str, measures: &[Measure]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for measure in measures {
        let case = format!("{upstream}/{}", measure.case);
        let protocol = match measure.protocol {
            Protocol::Http1 => "http1",
            Protocol::Http2 => "http2",
        };
        // What is counted before any request has no protocol.
        let protocol = if measure.case == "memory-idle" {
            ""
        } else {
            protocol
        };
        let at = rows
            .iter()
            .position(|row| row.case == case && row.protocol == protocol)
            .unwrap_or_else(|| {
                let unit = measure.unit.clone();
                rows.push(Row {
                    case,
                    protocol: protocol.to_owned(),
                    unit,
                    direct: None,
                    picket: None,
                    nginx: None,
                });
                rows.len() - 1
            });
        let value = Some((measure.value * 100.0).round() / 100.0);
        match measure.target.as_str() {
            "direct" => rows[at].direct = value,
            "picket" => rows[at].picket = value,
            _ => rows[at].nginx = value,
        }
    }
    rows
}

/// The means that criterion left in its folder, as further rows; those are of Picket's own functions.
pub(crate) fn criterion(folder: &Path) -> Result<Vec<Row>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            folders.push(entry.path());
        }
        if !folder.ends_with("new") {
            continue;
        }
        let read = |name: &str| -> Result<Value> {
            let file = folder.join(name);
            Ok(serde_json::from_slice(
                &fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?,
            )?)
        };
        let (about, estimates) = (read("benchmark.json")?, read("estimates.json")?);
        let (Some(name), Some(mean)) = (
            about["full_id"].as_str(),
            estimates["mean"]["point_estimate"].as_f64(),
        ) else {
            continue;
        };
        found.insert(format!("policy/{name}"), (mean / 10.0).round() / 100.0);
    }
    let row = |(case, mean)| Row {
        case,
        protocol: String::new(),
        unit: "us".into(),
        direct: None,
        picket: Some(mean),
        nginx: None,
    };
    Ok(found.into_iter().map(row).collect())
}

/// The table for people.
pub(crate) fn table(rows: &[Row]) -> String {
    let number = |value: Option<f64>| {
        value.map_or_else(
            || "-".to_owned(),
            |value| match value {
                value if value.abs() < 10.0 => format!("{value:.2}"),
                value if value.abs() < 100.0 => format!("{value:.1}"),
                value => format!("{value:.0}"),
            },
        )
    };
    let wide = rows.iter().map(|row| row.case.len()).max().unwrap_or(0).max(4);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:wide$}  {:8}  {:>10} {:>10} {:>10}  unit",
        "case", "protocol", "direct", "picket", "nginx"
    );
    for row in rows {
        let (direct, picket, nginx) = (number(row.direct), number(row.picket), number(row.nginx));
        let _ = writeln!(
            text,
            "{:wide$}  {:8}  {direct:>10} {picket:>10} {nginx:>10}  {}",
            row.case, row.protocol, row.unit
        );
    }
    text
}

/// The same as the README has it: numbers with their thousands apart, and Picket beside nginx.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| case | protocol | direct | Picket | nginx | Picket / nginx | unit |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), rounded);
        let protocol = match row.protocol.as_str() {
            "http1" => "HTTP/1.1",
            "http2" => "HTTP/2",
            _ => "-",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {protocol} | {} | {} | {} | {} | {} |",
            row.case,
            cell(row.direct),
            cell(row.picket),
            cell(row.nginx),
            to_nginx(row).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            row.unit
        );
    }
    text
}

/// Picket's number to nginx's. Of a latency it is the ratio of what each adds to the direct way, where both add something.
fn to_nginx(row: &Row) -> Option<f64> {
    let (picket, nginx) = (row.picket?, row.nginx?);
    let (picket, nginx) = match (row.direct, row.unit.as_str()) {
        (_, "x") => return None,
        (Some(direct), "us" | "ms") => (picket - direct, nginx - direct),
        _ => (picket, nginx),
    };
    (picket > 0.0 && nginx > 0.0).then_some(picket / nginx)
}

/// Three digits at least, with commas between thousands.
fn rounded(value: f64) -> String {
    let digits = match value.abs() {
        size if size < 10.0 => return format!("{value:.2}"),
        size if size < 100.0 => return format!("{value:.1}"),
        size => format!("{size:.0}"),
    };
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The same as a list of objects.
pub(crate) fn write(rows: &[Row], file: &Path) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, serde_json::to_vec_pretty(rows)?)
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_one_case_share_a_row() {
        let measure = |target: &str, protocol, value| Measure {
            case: "latency-p50".into(),
            protocol,
            unit: "us".into(),
            target: target.into(),
            value,
        };
        let measures = [
            measure("direct", Protocol::Http1, 80.0),
            measure("picket", Protocol::Http1, 130.126),
            measure("direct", Protocol::Http2, 90.0),
        ];
        let rows = rows("fast", &measures);
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (rows[0].direct, rows[0].picket, rows[0].nginx),
            (Some(80.0), Some(130.13), None)
        );
        let json: Value = serde_json::to_value(&rows).unwrap();
        assert_eq!(json[1]["nginx"], Value::Null);
        assert_eq!(json[0]["protocol"], "http1");
        assert!(table(&rows).contains("fast/latency-p50  http2"));
    }

    fn row(unit: &str, direct: Option<f64>, picket: f64, nginx: f64) -> Row {
        Row {
            case: "fast/case".into(),
            protocol: "http2".into(),
            unit: unit.into(),
            direct,
            picket: Some(picket),
            nginx: Some(nginx),
        }
    }

    #[test]
    fn picket_is_beside_nginx_by_what_each_adds() {
        assert_eq!(to_nginx(&row("us", Some(100.0), 160.0, 200.0)), Some(0.6));
        assert_eq!(to_nginx(&row("1/s", Some(100.0), 50.0, 40.0)), Some(1.25));
        assert_eq!(to_nginx(&row("KiB", None, 20.0, 10.0)), Some(2.0));
        // Faster than the direct way: measured within the noise, and no ratio.
        assert_eq!(to_nginx(&row("us", Some(100.0), 160.0, 90.0)), None);
        assert_eq!(to_nginx(&row("x", Some(1.0), 2.0, 1.0)), None);
    }

    #[test]
    fn markdown_has_a_line_for_each_row() {
        let rows = [
            row("us", Some(75.0), 1_234_567.4, 653.0),
            row("MB/s", None, 1.5, 12.34),
        ];
        let text = markdown(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[2],
            "| fast/case | HTTP/2 | 75.0 | 1,234,567 | 653 | 2135.80 | us |"
        );
        assert_eq!(lines[3], "| fast/case | HTTP/2 | - | 1.50 | 12.3 | 0.12 | MB/s |");
    }

    #[test]
    fn thousands_are_apart() {
        let texts = [0.5, -12.3, 100.0, 999.6, 12_345.0, -1_234.0].map(rounded);
        assert_eq!(texts, ["0.50", "-12.3", "100", "1,000", "12,345", "-1,234"]);
    }
}
