//! What a person sees of a login: on standard error, with the time that is left where that is a terminal.

use std::{io::Write as _, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use secrecy::SecretString;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    browser::Browser,
    code::Line,
    events::{self, Event},
    interrupt::Interrupt,
};
use crate::{
    cli::{failure::Failure, output},
    client::{LoginFlow, LoginPrompt, LoginStep, LoginUi},
    clock::{Clock as _, SystemClock},
};

/// The modules around a QR code that have to stay light, on both sides.
const QUIET: usize = 8;

/// Shows a login.
pub(super) struct Screen {
    interrupt: Interrupt,
    browser: Option<Browser>,
    /// The flow that the flag or the configuration names.
    expected: Option<LoginFlow>,
    in_sandbox: bool,
    json: bool,
    clock: SystemClock,
    /// A line is shown that is to be written over.
    line: bool,
    /// Why the user's part could not be done.
    failure: Option<Failure>,
}

impl Screen {
    pub(super) fn new(
        interrupt: Interrupt,
        browser: Option<Browser>,
        expected: Option<LoginFlow>,
        in_sandbox: bool,
        json: bool,
    ) -> Self {
        Self {
            interrupt,
            browser,
            expected,
            in_sandbox,
            json,
            clock: SystemClock::new(),
            line: false,
            failure: None,
        }
    }

    /// Takes the line away that was to be written over.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.line) {
            to_terminal("\r\u{1b}[K");
        }
    }

    /// Why the user's part could not be done.
    pub(super) fn into_failure(self) -> Option<Failure> {
        self.failure
    }

    fn is_live(&self) -> bool {
        !self.json && output::stderr_is_terminal()
    }

    /// Writes the line that is written over, with the time that is left in it. Where nothing is to be typed, the end takes
    /// the cursor back, so that a line of another program is not written behind this one.
    fn live(&mut self, what: &str, prompt: &LoginPrompt, end: &str) {
        let left = self.left(prompt).map(|left| format!(" ({left} left)"));
        let line = format!("credbroker: {what}{}{end}", left.unwrap_or_default());
        // What goes on in a second line cannot be written over. The last column is for the cursor.
        let room = output::columns(std::io::stderr()).map_or(usize::MAX, |columns| usize::from(columns) - 1);
        let fits: String = line.trim_end_matches('\r').chars().take(room).collect();
        let back = if line.ends_with('\r') { "\r" } else { "" };
        to_terminal(&format!("\r\u{1b}[K{fits}{back}"));
        self.line = true;
    }

    /// What is left of the login, by this machine's clock. `None`: it does not say, or the clock is wrong.
    fn left(&self, prompt: &LoginPrompt) -> Option<String> {
        let left = prompt.expire_time?.duration_since(self.clock.now().wall);
        let seconds = left.as_secs();
        (0..24 * 3600)
            .contains(&seconds)
            .then(|| format!("{}:{:02}", seconds / 60, seconds % 60))
    }

    fn is_over(&self, prompt: &LoginPrompt) -> bool {
        prompt.expire_time.is_some_and(|end| end <= self.clock.now().wall)
    }

    fn explain(&self, prompt: &LoginPrompt) {
        let entry = &prompt.entry;
        if self.expected == Some(LoginFlow::BrowserRedirect) && prompt.flow() == LoginFlow::DeviceCode {
            output::note("the host cannot listen for a browser, so the login goes on with a device code");
        }
        let place = match (&prompt.step, self.in_sandbox) {
            (LoginStep::Paste { .. }, _) => "open this page and log in",
            (LoginStep::Browser { .. }, false) => "open this page on this machine",
            (LoginStep::Browser { .. }, true) => "open this page on the host",
            (LoginStep::Device { .. }, _) => "open this page on any device",
        };
        // First, because it is taller than all the rest together: what has to be read stays on a screen of 24 lines.
        if matches!(prompt.step, LoginStep::Device { .. })
            && let Some(code) = self.qr_code(prompt.url())
        {
            to_terminal(&code);
        }
        output::note(&format!("to log in to {entry}, {place}:"));
        match &prompt.step {
            LoginStep::Paste { auth_url } | LoginStep::Browser { auth_url } => output::apart(auth_url),
            LoginStep::Device {
                verification_url,
                verification_url_complete,
                user_code,
            } => {
                output::apart(verification_url);
                output::note("and enter this code:");
                output::apart(user_code);
                if let Some(complete) = verification_url_complete {
                    output::note("this page has the code in it:");
                    output::apart(complete);
                }
            }
        }
        if let Some(browser) = &self.browser
            && browser.open(prompt.url())
        {
            output::note("it is being opened in your browser");
        }
    }

    /// The URL as a QR code. `None`: this is no terminal, or there is no room.
    fn qr_code(&self, url: &str) -> Option<String> {
        if !self.is_live() {
            return None;
        }
        qr_code(url, output::columns(std::io::stderr())?.into())
    }
}

/// Dark on light by colour, whatever the terminal's own colours are: inverted codes are not read by every camera.
fn qr_code(url: &str, columns: usize) -> Option<String> {
    let code = QrCode::with_error_correction_level(url, EcLevel::L).ok()?;
    if code.width() + QUIET > columns {
        return None;
    }
    let picture = code.render::<Dense1x2>().build();
    let lines = picture.lines().map(|line| format!("\u{1b}[30;107m{line}\u{1b}[0m\r\n"));
    Some(lines.chain(["\r\n".to_owned()]).collect())
}

fn to_terminal(text: &str) {
    let mut stderr = std::io::stderr();
    // It may be gone; then there is nobody to tell.
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

fn seconds() -> tokio::time::Interval {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    seconds
}

#[async_trait]
impl LoginUi for Screen {
    async fn show(&mut self, prompt: &LoginPrompt) {
        self.interrupt.prompted();
        if !self.json {
            self.explain(prompt);
            return;
        }
        if let Err(failure) = events::print(&Event::prompt(prompt)) {
            self.failure = Some(failure);
        }
        if let Some(browser) = &self.browser {
            browser.open(prompt.url());
        }
    }

    async fn code(&mut self, prompt: &LoginPrompt) -> Option<SecretString> {
        let mut line = match Line::begin() {
            Ok(line) => line,
            Err(error) => {
                self.failure = Some(Failure::internal(format!("cannot read from standard input: {error}")));
                return None;
            }
        };
        // A clock that is wrong from the beginning ends nothing.
        let has_time = !self.is_over(prompt);
        let mut seconds = seconds();
        if !self.json && !self.is_live() {
            output::note("paste the code, or the whole address of the page that you end at");
        }
        let interrupt = self.interrupt.clone();
        loop {
            tokio::select! {
                biased;
                () = interrupt.raised() => return None,
                code = line.read() => {
                    if code.is_none() {
                        self.failure = Some(Failure::bad_data(
                            "no code was given, so the login was cancelled; give it on standard input, as one line",
                        ));
                    }
                    return code;
                }
                _ = seconds.tick() => {
                    if has_time && self.is_over(prompt) {
                        return None;
                    }
                    if self.is_live() {
                        self.live("paste the code; it is not shown", prompt, ": ");
                    }
                }
            }
        }
    }

    async fn given_up(&mut self, prompt: &LoginPrompt) {
        let interrupt = self.interrupt.clone();
        if self.failure.is_some() {
            return;
        }
        let waiting = !matches!(prompt.step, LoginStep::Paste { .. });
        if waiting && !self.json && !self.is_live() {
            let until = prompt.expire_time.map(|end| format!(" until {}", whole_seconds(end)));
            output::note(&format!("waiting for you{}", until.unwrap_or_default()));
        }
        let mut seconds = seconds();
        loop {
            tokio::select! {
                biased;
                () = interrupt.raised() => return,
                _ = seconds.tick() => {
                    match (self.is_live(), waiting) {
                        (false, _) => {}
                        (true, true) => self.live("waiting for you", prompt, "; Ctrl-C cancels\r"),
                        (true, false) => self.live("the code is being exchanged", prompt, "\r"),
                    }
                }
            }
        }
    }
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qr_code_is_shown_where_it_fits() {
        let url = "https://github.com/login/device";
        let code = qr_code(url, 80).unwrap();
        let width = code
            .lines()
            .map(|line| line.chars().filter(|c| !c.is_ascii() || *c == ' ').count());
        assert!(width.max() <= Some(80), "{code}");
        assert!(qr_code(url, 32).is_none());
        assert!(qr_code(&"x".repeat(8000), 500).is_none());
    }
}
