//! One stream of lines out of many: what the services log, each line after the name of its instance.

use std::{
    io::{self, IsTerminal, Write},
    sync::Arc,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
};

use super::plan::{Instance, Plan, wants_colour};

/// A longer line is broken, so that a service that never ends one does not fill the memory.
const LONGEST_LINE: usize = 64 * 1024;
/// How many lines may wait for a slow terminal before the services have to wait too.
const WAITING_LINES: usize = 256;
/// One per instance, in turn; readable on dark and light ground.
const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];

/// A line with its end, and the place of a service's line among those that may wait.
type Line = (Vec<u8>, Option<OwnedSemaphorePermit>);

/// Where lines go. Clones write to the same place.
#[derive(Clone)]
pub(crate) struct Output {
    lines: mpsc::UnboundedSender<Line>,
    places: Arc<Semaphore>,
    broken: watch::Receiver<bool>,
    style: Arc<Style>,
}

struct Style {
    colour: bool,
    /// The longest name.
    width: usize,
    names: Vec<String>,
}

impl Output {
    /// Writes to the standard output, in a thread of its own: a blocked terminal must not keep `kit` from hearing
    /// signals. The receiver returned ends when all is written.
    pub(crate) fn stdout(plan: &Plan) -> (Self, oneshot::Receiver<()>) {
        let names: Vec<_> = plan
            .instances
            .iter()
            .map(|each| each.name.clone())
            .collect();
        let style = Style {
            colour: io::stdout().is_terminal() && wants_colour(),
            width: names.iter().map(String::len).max().unwrap_or(0),
            names,
        };
        let (lines, mut waiting) = mpsc::unbounded_channel::<Line>();
        let (breaks, broken) = watch::channel(false);
        let (done, written) = oneshot::channel();
        // Not joined: it may hang in a write, and ends with the process at the latest.
        std::thread::spawn(move || {
            while let Some((line, _place)) = waiting.blocking_recv() {
                let mut stdout = io::stdout().lock();
                if stdout
                    .write_all(&line)
                    .and_then(|()| stdout.flush())
                    .is_err()
                {
                    // Nobody reads any more, as in `kit up | head`. The services must not block on that.
                    breaks.send_replace(true);
                }
            }
            let _ = done.send(());
        });
        let output = Self {
            lines,
            places: Arc::new(Semaphore::new(WAITING_LINES)),
            broken,
            style: Arc::new(style),
        };
        (output, written)
    }

    /// A line, or several, of `kit` itself. There are few of them, and they do not wait: what they tell of, such as that
    /// everything is stopped, must happen also where nobody reads on.
    pub(crate) fn say(&self, text: String) {
        let _ = self.lines.send(((text + "\n").into_bytes(), None));
    }

    /// Returns when the output cannot be written to any more.
    pub(crate) async fn broken(&self) {
        let mut broken = self.broken.clone();
        if broken.wait_for(|broken| *broken).await.is_err() {
            std::future::pending().await
        }
    }

    /// Writes all that `source` says, line by line, until it ends.
    pub(crate) async fn pump(self, instance: Instance, source: impl AsyncRead + Unpin) {
        let prefix = self.style.prefix(&instance.name);
        let mut source = BufReader::with_capacity(LONGEST_LINE, source);
        let mut line = prefix.clone();
        loop {
            let chunk = match source.fill_buf().await {
                Ok([]) | Err(_) => break,
                Ok(chunk) => chunk,
            };
            let (end, complete) = match chunk.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (chunk.len(), line.len() + chunk.len() >= LONGEST_LINE),
            };
            line.extend_from_slice(&chunk[..end]);
            source.consume(end);
            if complete {
                self.write(std::mem::replace(&mut line, prefix.clone()))
                    .await;
            }
        }
        if line.len() > prefix.len() {
            self.write(line).await;
        }
    }

    async fn write(&self, mut line: Vec<u8>) {
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        if let Ok(place) = Arc::clone(&self.places).acquire_owned().await {
            let _ = self.lines.send((line, Some(place)));
        }
    }
}

impl Style {
    fn prefix(&self, name: &str) -> Vec<u8> {
        let padded = format!("{name:width$} |", width = self.width);
        if !self.colour {
            return format!("{padded} ").into_bytes();
        }
        let index = self.names.iter().position(|each| each == name).unwrap_or(0);
        let colour = COLOURS[index % COLOURS.len()];
        format!("\x1b[{colour}m{padded}\x1b[0m ").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(colour: bool) -> (Output, mpsc::UnboundedReceiver<Line>) {
        let (lines, written) = mpsc::unbounded_channel();
        let style = Style {
            colour,
            width: 7,
            names: vec!["bugs".to_owned(), "users-2".to_owned()],
        };
        let output = Output {
            lines,
            places: Arc::new(Semaphore::new(16)),
            broken: watch::channel(false).1,
            style: Arc::new(style),
        };
        (output, written)
    }

    fn instance(name: &str) -> Instance {
        Instance {
            service: name.to_owned(),
            name: name.to_owned(),
            listen: ([127, 0, 0, 1], 1).into(),
            admin: ([127, 0, 0, 1], 2).into(),
        }
    }

    async fn pumped(colour: bool, name: &str, text: &[u8]) -> Vec<String> {
        let (output, mut written) = output(colour);
        output.pump(instance(name), text).await;
        let mut lines = Vec::new();
        while let Some((line, _)) = written.recv().await {
            lines.push(String::from_utf8_lossy(&line).into_owned());
        }
        lines
    }

    #[tokio::test]
    async fn every_line_has_its_prefix_and_its_end() {
        let lines = pumped(false, "bugs", b"one\n\ntwo").await;
        assert_eq!(
            lines,
            ["bugs    | one\n", "bugs    | \n", "bugs    | two\n"]
        );
    }

    #[tokio::test]
    async fn on_a_terminal_each_instance_has_its_colour() {
        let lines = pumped(true, "users-2", b"one\n").await;
        assert_eq!(lines, ["\x1b[33musers-2 |\x1b[0m one\n"]);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_broken() {
        let lines = pumped(false, "bugs", &vec![b'x'; 3 * LONGEST_LINE]).await;
        assert!(lines.len() >= 3, "{}", lines.len());
        assert!(lines.iter().all(|line| line.len() <= 2 * LONGEST_LINE));
    }
}
