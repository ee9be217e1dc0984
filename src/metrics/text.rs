//! Numbers as Prometheus reads them: OpenMetrics 1.0 for who asks for that, else the text format 0.0.4.

use std::fmt::Write;
use std::time::Duration;

use super::count::Reading;

/// How a scrape is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Text,
}

impl Format {
    /// What an `Accept` header asks for. OpenMetrics has to be asked for by name; who takes anything gets the older one.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let wants = |part: &str| {
            let mut fields = part.split(';').map(str::trim);
            let is_it = fields.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            let mut is_ours = true;
            for field in fields {
                match field.split_once('=').map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim())) {
                    Some((name, value)) if name == "version" => is_ours &= matches!(value, "1.0.0" | "0.0.1"),
                    Some((name, value)) if name == "q" => is_ours &= value.parse::<f32>().is_ok_and(|weight| weight > 0.0),
                    _ => {}
                }
            }
            is_it && is_ours
        };
        if accept.split(',').any(wants) { Self::OpenMetrics } else { Self::Text }
    }

    /// For `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What a family of series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

/// Writes one family after the other.
pub(super) struct Writer {
    format: Format,
    text: String,
    /// The family that is being written, and what its samples' names end in.
    name: &'static str,
    suffix: &'static str,
}

type Labels<'l> = &'l [(&'static str, &'l str)];

impl Writer {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::with_capacity(64 * 1024), name: "", suffix: "" }
    }

    /// Begins a family. A counter's name has no `_total`, and an information's no `_info`: each format wants it at another place.
    pub(super) fn family(&mut self, kind: Kind, name: &'static str, help: &'static str) {
        (self.name, self.suffix) = (
            name,
            match kind {
                Kind::Counter => "_total",
                Kind::Gauge | Kind::Histogram => "",
                Kind::Info => "_info",
            },
        );
        let (described, kind) = match (self.format, kind) {
            (Format::Text, Kind::Info) => (self.suffix, "gauge"),
            (Format::Text, Kind::Counter) => (self.suffix, "counter"),
            (Format::OpenMetrics, Kind::Info) => ("", "info"),
            (_, Kind::Counter) => ("", "counter"),
            (_, Kind::Gauge) => ("", "gauge"),
            (_, Kind::Histogram) => ("", "histogram"),
        };
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit)).filter(|_| self.format == Format::OpenMetrics);
        self.line(format_args!("# HELP {name}{described} {help}"));
        self.line(format_args!("# TYPE {name}{described} {kind}"));
        if let Some(unit) = unit {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
    }

    /// A sample of the family.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: f64) {
        self.write(self.suffix, labels, None, value);
    }

    /// The samples of a histogram.
    pub(super) fn histogram(&mut self, labels: Labels<'_>, reading: &Reading) {
        for (bound, count) in &reading.buckets {
            self.write("_bucket", labels, Some(&bucket(*bound)), whole(*count));
        }
        self.write("_bucket", labels, Some("+Inf"), whole(reading.count));
        self.write("_sum", labels, None, reading.sum.as_secs_f64());
        self.write("_count", labels, None, whole(reading.count));
    }

    /// All that was written.
    pub(super) fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn write(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: f64) {
        let mut written = String::new();
        for (name, value) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            written.push_str(if written.is_empty() { "" } else { "," });
            written.push_str(name);
            written.push_str("=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => written.push_str("\\\\"),
                    '"' => written.push_str("\\\""),
                    '\n' => written.push_str("\\n"),
                    other => written.push(other),
                }
            }
            written.push('"');
        }
        let (open, close) = if written.is_empty() { ("", "") } else { ("{", "}") };
        let name = self.name;
        self.line(format_args!("{name}{suffix}{open}{written}{close} {}", number(value)));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A string takes whatever is written.
        let _ = writeln!(self.text, "{line}");
    }
}

/// Beyond 2^53 the last digits are lost, as they are in Prometheus.
#[allow(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
pub(super) fn whole(number: u64) -> f64 {
    number as f64
}

/// The end of a bucket, as OpenMetrics wants such numbers: `10.0`, `5e-05`.
fn bucket(end: Duration) -> String {
    let text = format!("{:?}", end.as_secs_f64());
    match text.split_once("e-") {
        Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
        None => text,
    }
}

/// A number in the shortest form that is read back as the same.
fn number(value: f64) -> String {
    format!("{value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let mut writer = Writer::new(format);
        writer.family(Kind::Counter, "a_requests", "What came.");
        writer.sample(&[("way", "in")], 3.0);
        writer.sample(&[("way", "o\"u\\t\n")], 1_712_345_678.0);
        writer.family(Kind::Gauge, "a_size_bytes", "How large.");
        writer.sample(&[], 0.5);
        writer.family(Kind::Info, "a_build", "Which.");
        writer.sample(&[("version", "1.0")], 1.0);
        writer.family(Kind::Histogram, "a_duration_seconds", "How long.");
        let buckets = vec![(Duration::from_micros(50), 1), (Duration::from_secs(10), 2)];
        writer.histogram(&[("way", "in")], &Reading { buckets, count: 3, sum: Duration::from_millis(20_001) });
        writer.end()
    }

    #[test]
    fn each_format_has_its_own_names_for_what_is_described() {
        let text = "# HELP a_requests_total What came.\n# TYPE a_requests_total counter\n\
            a_requests_total{way=\"in\"} 3\na_requests_total{way=\"o\\\"u\\\\t\\n\"} 1712345678\n\
            # HELP a_size_bytes How large.\n# TYPE a_size_bytes gauge\na_size_bytes 0.5\n\
            # HELP a_build_info Which.\n# TYPE a_build_info gauge\na_build_info{version=\"1.0\"} 1\n\
            # HELP a_duration_seconds How long.\n# TYPE a_duration_seconds histogram\n\
            a_duration_seconds_bucket{way=\"in\",le=\"5e-05\"} 1\na_duration_seconds_bucket{way=\"in\",le=\"10.0\"} 2\n\
            a_duration_seconds_bucket{way=\"in\",le=\"+Inf\"} 3\n\
            a_duration_seconds_sum{way=\"in\"} 20.001\na_duration_seconds_count{way=\"in\"} 3\n";
        assert_eq!(written(Format::Text), text);
        let open = text
            .replace("# HELP a_requests_total", "# HELP a_requests")
            .replace("# TYPE a_requests_total", "# TYPE a_requests")
            .replace("a_size_bytes gauge\n", "a_size_bytes gauge\n# UNIT a_size_bytes bytes\n")
            .replace("# HELP a_build_info", "# HELP a_build")
            .replace("# TYPE a_build_info gauge", "# TYPE a_build info")
            .replace("seconds histogram\n", "seconds histogram\n# UNIT a_duration_seconds seconds\n");
        assert_eq!(written(Format::OpenMetrics), format!("{open}# EOF\n"));
    }

    #[test]
    fn open_metrics_is_for_who_asks_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let later = "application/openmetrics-text; version=2.0.0, text/plain;version=0.0.4";
        for (accept, expected) in [
            (prometheus, Format::OpenMetrics),
            ("text/plain, Application/OpenMetrics-Text", Format::OpenMetrics),
            ("application/openmetrics-text;q=0", Format::Text),
            (later, Format::Text),
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml", Format::Text),
            ("", Format::Text),
            (";;;=,,;q=", Format::Text),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept}");
        }
    }
}
