//! The page of a recorded journal in a real browser: it loads without a word on the console and
//! without asking for anything, every chart shows something, and nothing sticks out on a phone.
//!
//! A page has no script of its own; what only a script can ask is asked by one that is put into a
//! copy. Without a browser all of this is reported as ignored.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::LazyLock;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/samples/sample.ndjson");
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
/// Asks, and tells the window around it, which is itself where there is none.
const PROBE: &str = r#"<script>addEventListener("load", () => {
    const root = document.documentElement;
    parent.postMessage({
        width: root.clientWidth,
        needed: Math.max(root.scrollWidth, document.body.scrollWidth),
        loaded: performance.getEntriesByType("resource").length,
        scheme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light",
        background: getComputedStyle(document.body).backgroundColor,
    }, "*");
});</script>"#;
/// Leaves the answers where a dump of the document shows them.
const LISTENER: &str = r#"<script>
    addEventListener("message", it => Object.assign(document.documentElement.dataset, it.data));
</script>"#;
/// CSS pixels.
const PHONE_WIDTH: u32 = 390;

/// What a browser made of a page.
struct Seen {
    document: String,
    /// What the page said on the console.
    console: Vec<String>,
}

static BROWSER: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let all = BROWSERS.iter().flat_map(|name| folders.iter().map(move |it| it.join(name)));
    all.into_iter().find(|path| path.is_file())
});

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let cases: [(&str, fn()); 5] = [
        ("the_browser_has_nothing_to_say", the_browser_has_nothing_to_say),
        ("every_chart_shows_something", every_chart_shows_something),
        ("nothing_sticks_out_on_a_phone", nothing_sticks_out_on_a_phone),
        ("dark_when_asked", dark_when_asked),
        ("the_checks_see_what_is_wrong", the_checks_see_what_is_wrong),
    ];
    let trials = cases.into_iter().map(|(name, run)| {
        Trial::ignorable_test(name, move || -> Result<Completion, Failed> {
            if BROWSER.is_none() {
                let names = BROWSERS.join(", ");
                return Ok(Completion::ignored_with(format!(
                    "there is no browser ({names}): sudo apt install chromium"
                )));
            }
            run();
            Ok(Completion::Completed)
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn the_browser_has_nothing_to_say() {
    let page = page("silent");
    let seen = look(&page, &[]);
    assert_eq!(seen.console, Vec::<String>::new());
    let probed = look(&with_probe(&page, ""), &[]);
    assert_eq!(probed.console, Vec::<String>::new());
    assert_eq!(answer(&probed, "loaded"), "0", "it asked for something");
}

fn every_chart_shows_something() {
    let seen = look(&page("charts"), &[]);
    let charts: Vec<&str> = seen.document.split("<figure class=\"chart\"").skip(1).collect();
    assert!(charts.len() >= 15, "only {} charts", charts.len());
    for chart in charts {
        let chart = chart.split("</figure>").next().unwrap();
        let caption = chart.split("<figcaption>").nth(1).unwrap_or(chart);
        let caption = caption.split("</figcaption>").next().unwrap();
        assert!(chart.contains("class=\"mark "), "no mark under {caption:?}");
        assert!(chart.contains("aria-label="), "no words for {caption:?}");
        assert!(!chart.contains("NaN") && !chart.contains("inf"), "no number under {caption:?}");
    }
    for part in ["workloads", "latency", "batches", "history", "environment"] {
        assert!(seen.document.contains(&format!("id=\"{part}\"")), "no part {part}");
    }
    assert!(seen.document.matches("class=\"histogram\"").count() >= 8, "no histograms");
    assert!(seen.document.contains("class=\"mark curve "), "no curve");
    assert!(seen.document.contains("class=\"dot"), "no rounds");
}

fn nothing_sticks_out_on_a_phone() {
    let seen = look(&on_phone(&with_probe(&page("phone"), "")), &[]);
    assert_eq!(answer(&seen, "width"), "390", "the window is not that of a phone");
    assert_eq!(answer(&seen, "needed"), "390", "the page is wider than the window");
    // Also with everything that can be folded out.
    let open =
        "<script>document.querySelectorAll('details').forEach(it => it.open = true)</script>";
    let seen = look(&on_phone(&with_probe(&page("phone-open"), open)), &[]);
    assert_eq!(answer(&seen, "needed"), "390", "a table is wider than its box");
}

fn dark_when_asked() {
    let copy = with_probe(&page("dark"), "");
    let light = look(&copy, &["--blink-settings=preferredColorScheme=1"]);
    let dark = look(&copy, &["--blink-settings=preferredColorScheme=0"]);
    assert_eq!((answer(&light, "scheme"), answer(&dark, "scheme")), ("light", "dark"));
    assert_ne!(answer(&light, "background"), answer(&dark, "background"));
}

fn the_checks_see_what_is_wrong() {
    let wrong = "<div style=\"width:500px\">wide</div><img src=\"http://127.0.0.1:9/x.png\">";
    let seen = look(&on_phone(&with_probe(&page("wrong"), wrong)), &[]);
    assert!(answer(&seen, "needed").parse::<u32>().unwrap() > 390);
    assert!(!seen.console.is_empty(), "the policy let a picture through");
}

/// The page of the sample, as a user makes it.
fn page(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.html"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringtun-bench"));
    let output = command.arg("report").arg(SAMPLE).arg("--html").arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    path
}

/// A copy that may run the probe, with `more` at its end.
fn with_probe(page: &Path, more: &str) -> PathBuf {
    let text = fs::read_to_string(page).unwrap();
    let policy = format!("{POLICY}; script-src 'unsafe-inline'");
    assert!(text.contains(POLICY) && !text.contains("<script"), "another policy, or a script");
    let text = text.replace(POLICY, &policy);
    let text = text.replace("</body>", &format!("{more}{LISTENER}{PROBE}</body>"));
    let path = page.with_extension("probe.html");
    fs::write(&path, text).unwrap();
    path
}

/// A window of a browser has 500 pixels at least; a frame in it is as narrow as a phone.
fn on_phone(page: &Path) -> PathBuf {
    let name = page.file_name().unwrap().to_str().unwrap();
    let frame = format!(
        "<iframe src=\"{name}\" width=\"{PHONE_WIDTH}\" height=\"844\" \
        style=\"border:0\"></iframe>"
    );
    let path = page.with_extension("phone.html");
    fs::write(&path, format!("<!DOCTYPE html><title>phone</title>{LISTENER}{frame}")).unwrap();
    path
}

fn look(page: &Path, flags: &[&str]) -> Seen {
    let profile = page.with_extension("profile");
    let mut command = Command::new(BROWSER.as_ref().unwrap());
    // Root has no sandbox, and the page is ours.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--no-first-run", "--disable-background-networking", "--hide-scrollbars"]);
    command.args(["--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000"]);
    command.arg("--window-size=1280,900");
    command.arg(format!("--user-data-dir={}", profile.display())).args(flags);
    command.arg("--dump-dom").arg(format!("file://{}", page.display()));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let _ = fs::remove_dir_all(&profile);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "the browser failed: {errors}");
    let document = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(document.contains("</html>"), "no document: {errors}");
    let console = errors.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned);
    Seen { document, console: console.collect() }
}

fn answer<'a>(seen: &'a Seen, name: &str) -> &'a str {
    let (_, rest) = seen.document.split_once(&format!("data-{name}=\"")).unwrap();
    rest.split('"').next().unwrap()
}
