//! `onlay pull`.

use std::io;
use std::process::ExitCode;

use oci_spec::distribution::Reference;
use oci_spec::image::{Digest, ImageConfiguration};

use super::error::Error;
use super::output::print;
use super::progress::Bars;
use super::registry::{RegistryArgs, Transfer};
use super::store::StoreArgs;
use crate::registry::{Access, Finished, Part, Platform, Pulled, Session, Sink};
use crate::store::{self, BlobWriter, ErrorKind, Store, familiar_name, parse_name};
use crate::sys::process::{Fork, end_with, fork};
use crate::vocab::digest::short;
use crate::vocab::why;

/// Fetch an image from a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Only what is not here yet is fetched, several layers at a time; what an interrupted pull has got is
used by the next one.

Examples:
  onlay pull debian:12
  onlay pull localhost:5000/team/app:1
  onlay pull --platform linux/arm64 registry.example/app@sha256:4f53..")]
pub(super) struct Args {
    /// The image: [HOST[:PORT]/]NAME[:TAG][@DIGEST]
    #[arg(value_name = "REF")]
    image: String,
    /// The image for other machines: OS/ARCH[/VARIANT] [default: this one's]
    #[arg(long)]
    platform: Option<Platform>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// No progress, only the id
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let reference = parse_name(&args.image)?;
    // Before our ids change: a program may be asked, and it is to know who asks.
    let options = args.registry.options_for(&reference)?;
    let (store, owners) = store.open_files()?;
    let _adding = store.adding()?;
    let bars = Bars::new(args.quiet);
    let session = Session::open(&reference, &Access::Pull, &options)?;
    let platform = args.platform.clone().unwrap_or_else(Platform::here);
    let pulled = session.pull(&platform, &IntoStore(&store), &Transfer { bars: &bars, what: "fetching" })?;
    check_platform(&store, &reference, &pulled, args.platform.as_ref())?;
    let manifest = store.put_blob(&pulled.bytes)?;
    let image = store.install(&manifest, Some(&reference), owners, &bars)?;
    let id = short(image.id());
    let text = if args.quiet {
        format!("{id}\n")
    } else {
        let digest = pulled.index.as_ref().unwrap_or(&pulled.digest);
        format!("Pulled image: {} ({id})\nDigest: {digest}\n", familiar_name(&reference))
    };
    print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Where there was nothing to choose from, the image may be for other machines: refused if one was `asked` for, else told.
fn check_platform(store: &Store, name: &Reference, pulled: &Pulled, asked: Option<&Platform>) -> Result<(), Error> {
    let bytes = store.read_blob(pulled.manifest.config().digest())?;
    // What is no configuration is refused where all of it is looked at.
    let Ok(config) = serde_json::from_slice::<ImageConfiguration>(&bytes) else { return Ok(()) };
    let is_for = format!("{} is for {}/{}", familiar_name(name), config.os(), config.architecture());
    match asked {
        Some(asked) if !asked.is_of(&config) => Err(Error::new(format!("{is_for}, not for {asked}"))
            .hint("the registry has no other by this name; without --platform it is taken as it is")),
        None if !Platform::here().is_of(&config) => {
            log::warn!("{is_for}, this machine is {}", Platform::here());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Fetches an image in a process of its own: whose the files are is not this one's business, which may go on to run it.
/// What is fetched is told on standard error.
pub(super) fn pull_apart(store: &Store, image: &str) -> Result<(), Error> {
    let fail = |what: &str, e: io::Error| Error::new(format!("pull {image}: {what}: {}", why(&e)));
    let (mut told, mut tell) = io::pipe().map_err(|e| fail("pipe", e))?;
    match fork().map_err(|e| fail("fork", e.into()))? {
        Fork::Child => end_with(|| {
            drop(told);
            let args = Args {
                image: image.to_owned(),
                platform: None,
                registry: RegistryArgs::default(),
                quiet: !io::IsTerminal::is_terminal(&io::stderr()),
            };
            let quiet = rustix::stdio::dup2_stdout(io::stderr()).map_err(|e| fail("standard error", e.into()));
            let Err(e) = quiet.and_then(|()| run(&args, &StoreArgs::at(store.root()))) else { return 0 };
            let text = format!("{}\0{}", e.message(), e.hint_text().unwrap_or(""));
            // Whoever does not read it sees the exit code.
            i32::from(io::Write::write_all(&mut tell, text.as_bytes()).is_err()) + 1
        }),
        Fork::Parent(child) => {
            drop(tell);
            let mut text = String::new();
            io::Read::read_to_string(&mut told, &mut text).map_err(|e| fail("pipe", e))?;
            let status = nix::sys::wait::waitpid(child, None).map_err(|e| fail("wait", e.into()))?;
            match text.split_once('\0') {
                Some((text, "")) => Err(Error::new(text)),
                Some((text, hint)) => Err(Error::new(text).hint(hint)),
                None if status == nix::sys::wait::WaitStatus::Exited(child, 0) => Ok(()),
                None => Err(Error::new(format!("pull {image}: ended unexpectedly"))),
            }
        }
    }
}

/// The store, as the registry sees it.
struct IntoStore<'a>(&'a Store);

impl Sink for IntoStore<'_> {
    fn has(&self, digest: &Digest) -> io::Result<bool> {
        self.0.has_blob(digest).map_err(to_io)
    }

    fn begin(&self, digest: &Digest) -> io::Result<Option<Box<dyn Part + '_>>> {
        let writer = self.0.resume_blob(digest).map_err(to_io)?;
        Ok(writer.map(|writer| Box::new(IntoBlob(writer)) as Box<dyn Part>))
    }
}

/// What the registry room makes of it: a full disk is more than a failure.
fn to_io(e: store::Error) -> io::Error {
    let kind = if e.kind() == ErrorKind::Full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
    io::Error::new(kind, e)
}

struct IntoBlob(BlobWriter);

impl io::Write for IntoBlob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Part for IntoBlob {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.restart().map_err(to_io)
    }

    fn finish(self: Box<Self>, digest: &Digest) -> io::Result<Finished> {
        match self.0.finish(Some(digest)) {
            Ok(_) => Ok(Finished::Whole),
            Err(e) if e.kind() == ErrorKind::Bad => Ok(Finished::Differs),
            Err(e) => Err(to_io(e)),
        }
    }

    fn discard(self: Box<Self>, _: &Digest) -> io::Result<()> {
        self.0.discard().map_err(to_io)
    }
}
