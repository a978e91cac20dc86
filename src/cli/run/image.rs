//! Containers of images: made, and run.

use std::cell::Cell;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::args::{Caller, Defaults, NAMELESS, last_wins};
use super::container::Pull;
use super::detach::detached;
use super::journal::Recorder;
use super::process::ProcessArgs;
use super::view::View;
use super::{Args, FAILED};
use crate::cli::error::Error;
use crate::cli::layers::Given;
use crate::cli::output::print;
use crate::cli::pull::pull_apart;
use crate::cli::store::StoreArgs;
use crate::overlay::Config;
use crate::runner::{self, Attended, Cgroup, Control, Mapping, Network, Spec};
use crate::store::{Adding, Container, ErrorKind, Image, NewContainer, Process, Running, State, Status, Store};
use crate::vocab::dialect::Prefix;
use crate::vocab::ids::IdMaps;

/// Makes a container of the image that the first word of the command names, and takes it. Its lock keeps everybody else
/// away from it.
pub(in crate::cli) fn create(store: &Store, args: &Args) -> Result<(Container, Running), Error> {
    let (container, running, _) = create_with(store, args, State { remove: args.rm, ..State::default() })?;
    Ok((container, running))
}

/// What is known of a container that was made just now.
pub(super) struct Fresh {
    image: Image,
    mapping: Mapping,
    /// What is written of it.
    state: State,
}

fn create_with(store: &Store, args: &Args, state: State) -> Result<(Container, Running, Fresh), Error> {
    let name = image_name(args)?;
    let stop_signal = args.container.stop_signal()?;
    let id_file = args.container.id_file()?;
    // Until the container is there, and ours: no sweep comes in between.
    let (_adding, image) = provide(store, &name, args.container.pull)?;
    let mapping = Mapping::of_caller()?;
    let mut own = args.clone();
    own.command.remove(0);
    // What of the arguments makes no sense is told before anything is made.
    let spec = own.spec(mapping.clone(), &Caller::here(), &defaults(&image), Path::new("/"), &[])?;
    if spec.process.command.is_empty() {
        return Err(Error::new(format!("image {name} says nothing to run")).hint(format!("onlay run {name} COMMAND..")));
    }
    let text = |words: &[OsString]| words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let process = Process {
        args: text(&spec.process.command),
        env: spec.process.env.iter().map(|(n, v)| format!("{}={}", n.display(), v.display())).collect(),
        workdir: spec.process.workdir.as_ref().map(|d| d.display().to_string()),
        user: spec.process.user.clone(),
        hostname: args.hostname.clone(),
        labels: args.container.labels(image_labels(&image))?,
        stop_signal: stop_signal.or_else(|| image.config().config().as_ref()?.stop_signal().clone()),
        stop_timeout: args.container.stop_timeout,
        options: json!({ "argv": argv(), "cwd": std::env::current_dir().ok() }),
    };
    let fresh = Fresh { image: image.clone(), mapping, state: state.clone() };
    let container =
        store.create_container(NewContainer { name: args.name.clone(), image_name: name, image, process, state })?;
    let running = container.take()?;
    if let Some(Err(e)) = id_file.map(|file| file.write(&container.record.id)) {
        store.remove_container(&container, running)?;
        return Err(e);
    }
    Ok((container, running, fresh))
}

fn image_labels(image: &Image) -> impl IntoIterator<Item = (String, String)> {
    image.config().config().as_ref().and_then(|c| c.labels().clone()).unwrap_or_default()
}

/// Has the image here: `run` fetches what is missing if its name says from where, as nobody expects a slip of the keyboard
/// to be asked for in the world; and whatever it is told to. No sweep takes it away until what comes with it is dropped.
fn provide(store: &Store, name: &str, pull: Option<Pull>) -> Result<(Adding, Image), Error> {
    if pull != Some(Pull::Always) {
        let adding = store.adding()?;
        match (pull, store.image(name)) {
            (_, Ok(found)) => return Ok((adding, found.image)),
            (_, Err(e)) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
            (Some(Pull::Never), Err(e)) => {
                let hint = "--pull missing fetches it; onlay images lists those that are here";
                return Err(Error::new(e).hint(hint));
            }
            (None, Err(e)) if !names_registry(name) => {
                let hint = format!("onlay images lists those that are here; onlay pull {name}");
                return Err(Error::new(e).hint(hint));
            }
            _ => {}
        }
    }
    // Who fetches it is adding, too, and may have to wait for a sweep.
    pull_apart(store, name)?;
    let adding = store.adding()?;
    let image = store.image(name)?.image;
    Ok((adding, image))
}

/// Whether the first word of a name is a host.
fn names_registry(name: &str) -> bool {
    name.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost")
}

/// The words behind the verb, for a start of the same later.
fn argv() -> Vec<String> {
    let words = std::env::args_os().skip_while(|word| word != "run" && word != "create").skip(1);
    words.map(|word| word.to_string_lossy().into_owned()).collect()
}

fn image_name(args: &Args) -> Result<String, Error> {
    let word = args.command.first().ok_or_else(|| {
        Error::new("nothing to run").hint("onlay run IMAGE [COMMAND..], or --rootfs, --lower, --host")
    })?;
    Ok(word.to_string_lossy().into_owned())
}

/// What an image says of how it is run.
pub(in crate::cli) fn defaults(image: &Image) -> Defaults {
    let Some(config) = image.config().config() else { return Defaults::default() };
    let words = |words: &Option<Vec<String>>| words.iter().flatten().map(OsString::from).collect();
    let pair = |line: &String| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        (OsString::from(name), OsString::from(value))
    };
    Defaults {
        entrypoint: words(config.entrypoint()),
        command: words(config.cmd()),
        env: config.env().iter().flatten().map(pair).collect(),
        workdir: config.working_dir().as_ref().filter(|d| !d.is_empty()).map(Into::into),
        user: config.user().clone().filter(|u| !u.is_empty()),
    }
}

/// `onlay run IMAGE`.
pub(super) fn run(args: &Args, store: &StoreArgs) -> Result<ExitCode, Error> {
    let store = store.open()?;
    if args.dry_run {
        let image = store.image(&image_name(args)?)?.image;
        let mut own = args.clone();
        own.command.remove(0);
        let spec = own.spec(Mapping::of_caller()?, &Caller::here(), &defaults(&image), Path::new("/"), &[])?;
        print(format!("{}\n", runner::plan(&spec)).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    // One in the foreground starts as soon as it is there: that is written down at once.
    let state = if args.detach { State::default() } else { begun() };
    let state = State { remove: args.rm, ..state };
    let (container, running, fresh) = create_with(&store, args, state)?;
    let mut own = args.clone();
    own.command.remove(0);
    if args.detach {
        detached(&store, &container, running, &own)?;
        print(format!("{}\n", container.record.id).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.rm {
        return pass(&store, &container, running, &own, Some(fresh));
    }
    let ran = Cell::new(false);
    let attended = Attended { running: Some(Box::new(|| ran.set(true))), ..Attended::default() };
    let ended = start(&store, &container, &own, attended, None, Some(fresh));
    if ended.is_err() && !ran.get() {
        store.remove_container(&container, running)?;
    }
    ended
}

/// Runs a container here that is gone when its command has ended.
fn pass(
    store: &Store,
    container: &Container,
    running: Running,
    args: &Args,
    fresh: Option<Fresh>,
) -> Result<ExitCode, Error> {
    let ended = start(store, container, args, Attended::default(), None, fresh);
    let removed = match ended {
        Ok(_) => store.retire_container(container, running),
        Err(_) => store.remove_container(container, running),
    };
    let code = ended?;
    Ok(removed.map(|()| code)?)
}

/// Runs a container that this process has taken; `args` is without the image. Its state tells how it went; that of a `fresh`
/// one says already that it runs.
pub(super) fn start(
    store: &Store,
    container: &Container,
    args: &Args,
    mut attended: Attended<'_>,
    recorder: Option<Recorder>,
    fresh: Option<Fresh>,
) -> Result<ExitCode, Error> {
    let (written, known) = match fresh {
        Some(Fresh { image, mapping, state }) => (Some(state), Some((image, mapping))),
        None => (None, None),
    };
    let remove = match &written {
        Some(state) => state.remove,
        None => container.state()?.remove,
    };
    let (spec, view) = prepare(store, container, args, remove, known)?;
    if attended.control.is_none() {
        attended.control = Some(Control::listen(container.dir())?);
    }
    if attended.cgroup.is_none() {
        attended.cgroup = Cgroup::limited(&spec.resources, container.dir());
    }
    attended.own = Some(OWN);
    let oom_killed = std::rc::Rc::new(Cell::new(false));
    let told = oom_killed.clone();
    attended.out_of_memory = Some(Box::new(move |_| told.set(true)));
    let mut state = match written {
        Some(written) => written,
        None => {
            let state = State { remove, ..begun() };
            store.set_state(container, &state)?;
            state
        }
    };
    let (shelf, one, then) = (store.clone(), container.clone(), state.clone());
    attended.left = Some(Box::new(move |supervisor| {
        // Whoever signals it by its process must meet the one that is there now.
        let pid = i32::try_from(std::process::id()).ok();
        let supervisor = Some(supervisor.as_raw());
        if let Err(e) = shelf.set_state(&one, &State { pid, supervisor, ..then }) {
            log::warn!("state of container {}: {e}", one.record.name);
        }
    }));
    let ended = runner::run_attended(&spec, &mut view.recorded(recorder), attended);
    let exit_code = match &ended {
        Ok(code) => *code,
        Err(e) => i32::from(e.exit_code()),
    };
    // What is removed next, nobody reads any more.
    if !remove {
        let oom_killed = oom_killed.get();
        state = State {
            finished: Some(now()),
            pid: None,
            supervisor: None,
            exit_code: Some(exit_code),
            oom_killed,
            ..state
        };
        // The command has ended as it has, whatever becomes of that.
        if let Err(e) = store.set_state(container, &state) {
            log::warn!("state of container {}: {e}", container.record.name);
        }
    }
    Ok(ExitCode::from(u8::try_from(ended?).unwrap_or(FAILED)))
}

/// What this process starts now.
fn begun() -> State {
    State { started: Some(now()), pid: i32::try_from(std::process::id()).ok(), ..State::default() }
}

/// What of ours may be started inside.
const OWN: runner::Own = crate::cli::cp::inside;

/// What a container's record says is run, and in which view, which `goes` with it; `args` is without the image.
fn prepare(
    store: &Store,
    container: &Container,
    args: &Args,
    goes: bool,
    known: Option<(Image, Mapping)>,
) -> Result<(Spec, View), Error> {
    let (image, mapping) = match known {
        Some(known) => known,
        None => (store.read_image(&container.record.manifest)?, Mapping::of_caller()?),
    };
    let mut args = args.clone();
    args.hostname.get_or_insert_with(|| container.short_id().to_owned());
    let layers = store.layers(&container.record.layers)?;
    let index = store.index_of_layers(&layers)?.filter(|index| index.exists());
    let given = Given {
        lowers: layers.into_iter().rev().map(|layer| layer.tree).collect(),
        upper: Some(container.upper()),
        work: Some(container.work()),
    };
    let config = Config {
        prefix: Some(Prefix::User),
        stored_owners: mapping.is_single(),
        ids: if mapping.is_single() { IdMaps::all_root() } else { IdMaps::default() },
        // What is thrown away anyway need not survive a crash.
        volatile: goes,
        thrown_away: goes,
        index,
        ..Config::default()
    };
    let mut spec = args.spec(mapping, &caller(container), &defaults(&image), container.dir(), &[])?;
    take_over(&mut spec.process, container);
    let goes = goes.then(|| (store.clone(), container.clone()));
    Ok((spec, View::of_container(given, config, container.dir(), goes)))
}

/// Does something of ours in a container, with this process's standard input and output: in the running one, or in one that
/// is started for nothing else, of which nothing is told. The exit code.
pub(in crate::cli) fn own_process(store: &Store, container: &Container, words: Vec<OsString>) -> Result<i32, Error> {
    let process = runner::Process { own: true, ..runner::Process::new(words) };
    if container.status()? == Status::Running {
        return Ok(runner::exec(container.dir(), &process, true)?);
    }
    let _running = container.take()?;
    let (mut spec, mut view) = prepare(store, container, &recorded(container)?, false, None)?;
    (spec.process, spec.network, spec.ports) = (process, Network::None, Vec::new());
    spec.resources = runner::Resources::default();
    let attended = Attended { own: Some(OWN), ..Attended::default() };
    Ok(runner::run_attended(&spec, &mut view, attended)?)
}

/// Starts a container again as it was made: in the foreground, with or without input, or (`None`) detached.
pub(in crate::cli) fn start_again(store: &Store, name: &str, attach: Option<bool>) -> Result<ExitCode, Error> {
    let container = store.container(name)?;
    let running = container.take()?;
    let state = container.state()?;
    if state.remove && state.started.is_some() {
        return Err(Error::new(format!(
            "container {name} was to go when it ended, and was cut off: it may be incomplete"
        ))
        .hint(format!("onlay cp takes out what is left of it; onlay rm {name}")));
    }
    let mut args = recorded(&container)?;
    match attach {
        Some(interactive) => {
            args.process.interactive &= interactive;
            if args.rm {
                return pass(store, &container, running, &args, None);
            }
            start(store, &container, &args, Attended::default(), None, None)
        }
        None => {
            detached(store, &container, running, &args)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The arguments a container was made with, without the image.
pub(in crate::cli) fn recorded(container: &Container) -> Result<Args, Error> {
    let fail = |why: String| Error::new(format!("record of container {}: {why}", container.record.name));
    let words = container.record.process.options.get("argv").cloned().unwrap_or_default();
    let words: Vec<String> = serde_json::from_value(words).map_err(|e| fail(e.to_string()))?;
    let mut args = Args::of_words(&words).map_err(|e| fail(e.to_string()))?;
    if args.command.is_empty() {
        return Err(fail("names no image".to_owned()));
    }
    args.command.remove(0);
    args.rm = container.state()?.remove;
    Ok(args)
}

/// Who made the container: paths are as seen from there.
fn caller(container: &Container) -> Caller {
    let cwd = container.record.process.options.get("cwd").and_then(|dir| dir.as_str()).map(Into::into);
    Caller { cwd, ..Caller::here() }
}

/// What was found out when the container was made stays: variables of that day, the image's command.
fn take_over(process: &mut runner::Process, container: &Container) {
    let record = &container.record.process;
    let pair = |line: &String| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        (OsString::from(name), OsString::from(value))
    };
    process.command = record.args.iter().map(OsString::from).collect();
    process.env = record.env.iter().map(pair).collect();
    if record.hostname.is_none() {
        // Its id was not known then.
        let made_up = process.env.iter_mut().filter(|(name, value)| name == "HOSTNAME" && value == NAMELESS);
        made_up.for_each(|(_, value)| *value = container.short_id().into());
    }
}

/// One more process in a running container: confined as its command, with what `args` change.
pub(in crate::cli) fn extra_process(
    store: &Store,
    container: &Container,
    args: &ProcessArgs,
    command: Vec<OsString>,
) -> Result<runner::Process, Error> {
    let image = store.read_image(&container.record.manifest)?;
    let spec = recorded(container)?.spec(
        Mapping::of_caller()?,
        &caller(container),
        &defaults(&image),
        container.dir(),
        &[],
    )?;
    let mut process = spec.process;
    take_over(&mut process, container);
    process.command = command;
    if args.user.is_some() {
        process.user.clone_from(&args.user);
        process.env.retain(|(name, _)| name != "HOME");
    }
    if args.tty && !process.env.iter().any(|(name, _)| name == "TERM") {
        process.env.push(("TERM".into(), std::env::var_os("TERM").unwrap_or_else(|| "xterm".into())));
    }
    process.env.extend(args.variables(&Caller::here())?);
    process.env = last_wins(process.env);
    process.workdir = args.workdir()?.or(process.workdir);
    process.limits.extend(args.limits()?);
    process.terminal = args.tty;
    process.detach_keys = args.detach_keys()?;
    process.stdin = args.interactive;
    Ok(process)
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}
