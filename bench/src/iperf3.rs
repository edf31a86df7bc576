//! What an iperf3 document (`-J`) says about the receiving end.
//!
//! In: the client's JSON. Out: figures, or the reason why there are none. Received bytes come from
//! the receiver (`sum_received`), sent ones from the sender. Loss is counted from the two, not
//! taken from `lost_percent`, which does not know of packets missing at the end.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

/// What arrived.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Received {
    /// Bytes of payload.
    pub(crate) bytes: u64,
    /// The receiver's time.
    pub(crate) seconds: f64,
    /// TCP only, where it tells.
    pub(crate) retransmits: Option<u64>,
    /// UDP only.
    pub(crate) datagrams: Option<Datagrams>,
}

/// UDP datagrams on both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Datagrams {
    /// Sent by the client.
    pub(crate) sent: u64,
    /// Received by the server.
    pub(crate) received: u64,
}

impl Received {
    /// Payload bits in a second, in units of 1e9.
    pub(crate) fn gbit_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.gbit() / self.seconds } else { 0.0 }
    }

    /// Payload bits, in units of 1e9.
    pub(crate) fn gbit(&self) -> f64 {
        self.bytes as f64 * 8e-9
    }
}

impl Datagrams {
    /// Per cent that did not arrive.
    pub(crate) fn loss_percent(&self) -> f64 {
        if self.sent == 0 {
            return 0.0;
        }
        // The receiver's clock may run a little longer than the sender's count.
        100.0 * self.sent.saturating_sub(self.received) as f64 / self.sent as f64
    }
}

/// Reads a document of a TCP or UDP test.
///
/// # Errors
/// iperf3's own error, or the field that is missing.
pub(crate) fn parse(json: &Value) -> Result<Received> {
    if let Some(error) = json.get("error").and_then(Value::as_str) {
        bail!("iperf3: {error}");
    }
    let count = |pointer: &str| {
        let value = json.pointer(pointer).and_then(Value::as_u64);
        value.with_context(|| format!("iperf3's document has no number at {pointer}"))
    };
    let bytes = count("/end/sum_received/bytes")?;
    let seconds = json.pointer("/end/sum_received/seconds").and_then(Value::as_f64);
    let seconds = seconds.filter(|seconds| *seconds > 0.0);
    let seconds = seconds.context("iperf3's document has no time at /end/sum_received/seconds")?;
    let protocol = json.pointer("/start/test_start/protocol").and_then(Value::as_str);
    let datagrams = match protocol {
        Some("UDP") => {
            let payload_len = count("/start/test_start/blksize")?;
            if payload_len == 0 {
                bail!("iperf3's document says that datagrams were empty");
            }
            let sent = count("/end/sum_sent/packets")?;
            Some(Datagrams { sent, received: bytes / payload_len })
        }
        Some("TCP") => None,
        other => bail!("iperf3's document is about {other:?}, not TCP or UDP"),
    };
    let retransmits = count("/end/sum_sent/retransmits").ok();
    Ok(Received { bytes, seconds, retransmits, datagrams })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded from iperf3 3.12, cut down to what is read.
    const UDP: &str = r#"{"start":{"version":"iperf 3.12","test_start":{"protocol":"UDP",
        "num_streams":1,"blksize":64,"duration":1}},"intervals":[],"end":{
        "sum":{"seconds":1.002579,"bytes":6150400,"lost_packets":45441,"packets":96100},
        "sum_sent":{"seconds":1.000055,"bytes":6150400,"packets":96100,"lost_percent":0},
        "sum_received":{"seconds":1.002579,"bytes":3232640,"bits_per_second":25794595.7,
        "lost_packets":45441,"packets":95951,"lost_percent":47.285119667013525}}}"#;
    const TCP: &str = r#"{"start":{"test_start":{"protocol":"TCP","blksize":131072}},"end":{
        "sum_sent":{"seconds":1.00129,"bytes":1537474560,"retransmits":8},
        "sum_received":{"seconds":1.003175,"bytes":1537474560,"bits_per_second":1.2e10}}}"#;

    fn read(text: &str) -> Result<Received> {
        parse(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn udp_counts_what_arrived_against_what_was_sent() {
        let received = read(UDP).unwrap();
        let datagrams = received.datagrams.unwrap();
        assert_eq!(datagrams, Datagrams { sent: 96_100, received: 50_510 });
        assert!((datagrams.loss_percent() - 47.44).abs() < 0.01, "more than its lost_percent");
        assert!((received.gbit_per_second() - 0.0258).abs() < 1e-4);
    }

    #[test]
    fn tcp_is_measured_at_the_receiver() {
        let received = read(TCP).unwrap();
        assert_eq!((received.retransmits, received.datagrams), (Some(8), None));
        assert!((received.gbit_per_second() - 12.26).abs() < 0.01);
    }

    #[test]
    fn broken_documents_say_what_is_wrong() {
        let says = |text: &str, words: &str| {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        says(r#"{"start":{},"end":{},"error":"unable to connect to server"}"#, "unable to connect");
        says("{}", "/end/sum_received/bytes");
        says("[]", "/end/sum_received/bytes");
        says(&UDP.replace("sum_received", "sum_lost"), "/end/sum_received/bytes");
        says(&UDP.replace("3232640", "\"many\""), "/end/sum_received/bytes");
        says(&TCP.replace("1.003175", "0"), "seconds");
        says(&UDP.replace("\"blksize\":64", "\"blksize\":0"), "empty");
        says(&UDP.replace("\"UDP\"", "\"SCTP\""), "SCTP");
        says(&UDP.replace("\"packets\":96100,\"lost_percent\"", "\"lost_percent\""), "packets");
    }

    #[test]
    fn no_datagrams_sent_is_no_loss() {
        assert!(Datagrams::default().loss_percent() < 1e-9);
    }
}
