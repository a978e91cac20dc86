//! The floors of the house hold: a module imports only from floors below its own (see `src/lib.rs`).

#![expect(clippy::unwrap_used, reason = "a test that cannot read the sources has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// Each room and its floor. Rooms on one floor do not import each other.
const FLOORS: [(&str, u8); 9] = [
    ("sys", 0),
    ("vocab", 1),
    ("layer", 2),
    ("overlay", 3),
    ("registry", 3),
    ("runner", 3),
    ("fuse", 4),
    ("store", 4),
    ("cli", 5),
];

/// Below, and not for this room all the same: the two meet only in `cli`.
const APART: [(&str, &str); 1] = [("fuse", "runner")];

/// The one room that may name a crate.
const CRATES: [(&str, &str); 3] = [("fuser", "fuse"), ("clap", "cli"), ("ureq", "registry")];

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// What breaks the rules in one file.
struct Inspector {
    /// Path of the module in the crate; the first one is the room.
    module: Vec<String>,
    complaints: Vec<String>,
}

impl Inspector {
    fn room(&self) -> &str {
        self.module.first().map_or("", String::as_str)
    }

    /// Looks at a path as written.
    fn path(&mut self, written: &[String]) {
        let Some(first) = written.first() else { return };
        let room = self.room().to_owned();
        if let Some((name, owner)) = CRATES.iter().find(|(name, _)| name == first)
            && room != *owner
        {
            self.complaints.push(format!("{room} names {name}, which is for {owner} alone"));
        }
        // From the root of the crate.
        let absolute: Vec<String> = match first.as_str() {
            "crate" | "onlay" => written[1..].to_vec(),
            "super" => {
                let ups = written.iter().take_while(|s| *s == "super").count();
                let Some(base) = self.module.len().checked_sub(ups) else { return };
                self.module[..base].iter().chain(&written[ups..]).cloned().collect()
            }
            _ => return,
        };
        let Some(target) = absolute.first() else { return };
        if *target == room || room.is_empty() {
            return;
        }
        match (floor(&room), floor(target)) {
            (Some(from), Some(to)) if to < from && !APART.contains(&(room.as_str(), target.as_str())) => {}
            (Some(_), Some(_)) => self.complaints.push(format!("{room} imports {target}: {}", written.join("::"))),
            // An item of lib.rs itself, such as a macro.
            (Some(_), None) => {}
            (None, _) => self.complaints.push(format!("{room} is on no floor")),
        }
    }

    fn keyword_unsafe(&mut self, what: &str) {
        if self.room() != "sys" {
            self.complaints.push(format!("{what} in {}", self.room()));
        }
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |ident: &syn::Ident| before.iter().cloned().chain([ident.to_string()]).collect::<Vec<_>>();
        match tree {
            syn::UseTree::Path(p) => self.tree(&with(&p.ident), &p.tree),
            syn::UseTree::Name(n) => self.path(&with(&n.ident)),
            syn::UseTree::Rename(r) => self.path(&with(&r.ident)),
            syn::UseTree::Glob(_) => self.path(before),
            syn::UseTree::Group(g) => g.items.iter().for_each(|t| self.tree(before, t)),
        }
    }

    /// Looks at tokens that nobody has parsed: those of macros and attributes.
    fn tokens(&mut self, text: &str) {
        let mut path: Vec<String> = Vec::new();
        let spaced = without_strings(text).replace("::", " :: ").replace(|c: char| "(){}[],;<>&!#=".contains(c), " | ");
        let mut glued = false;
        for word in spaced.split_whitespace() {
            let is_name = word.chars().all(|c| c.is_alphanumeric() || c == '_');
            match (word, is_name) {
                ("::", _) => glued = true,
                (name, true) if glued => {
                    path.push(name.to_owned());
                    glued = false;
                }
                (name, _) => {
                    self.path(&std::mem::take(&mut path));
                    glued = false;
                    if name == "unsafe" {
                        self.keyword_unsafe("unsafe in a macro");
                    }
                    if is_name {
                        path.push(name.to_owned());
                    }
                }
            }
        }
        self.path(&path);
    }
}

/// The words of messages are no code.
fn without_strings(text: &str) -> String {
    let mut out = String::new();
    let (mut inside, mut escaped) = (false, false);
    for c in text.replace("'\"'", "").chars() {
        match c {
            '"' if !escaped => inside = !inside,
            _ if inside => escaped = c == '\\' && !escaped,
            _ => out.push(c),
        }
        if !inside || c == '"' {
            escaped = false;
        }
    }
    out
}

impl<'ast> Visit<'ast> for Inspector {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.path(&path.segments.iter().map(|s| s.ident.to_string()).collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(&item.tokens.to_string());
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            let text = list.tokens.to_string();
            if text.contains("unsafe_code") && !self.module.is_empty() {
                self.keyword_unsafe("a lint for unsafe_code");
            }
            self.tokens(&text);
        }
    }

    fn visit_expr_unsafe(&mut self, item: &'ast syn::ExprUnsafe) {
        self.keyword_unsafe("an unsafe block");
        visit::visit_expr_unsafe(self, item);
    }

    fn visit_signature(&mut self, item: &'ast syn::Signature) {
        if item.unsafety.is_some() {
            self.keyword_unsafe("an unsafe fn");
        }
        visit::visit_signature(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if item.unsafety.is_some() {
            self.keyword_unsafe("an unsafe impl");
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        if item.unsafety.is_some() {
            self.keyword_unsafe("an unsafe trait");
        }
        visit::visit_item_trait(self, item);
    }
}

/// What breaks the rules in `source`, the module at `module`.
fn inspect(module: &[&str], source: &str) -> Vec<String> {
    let file = syn::parse_file(source).unwrap();
    let module = module.iter().map(|s| (*s).to_owned()).collect();
    let mut inspector = Inspector { module, complaints: Vec::new() };
    inspector.visit_file(&file);
    inspector.complaints
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are both `a::b`.
fn module_of(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        path.with_extension("").components().map(|c| c.as_os_str().to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|p| p == "mod" || (parts.len() == 1 && (p == "lib" || p == "main"))) {
        parts.pop();
    }
    parts
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_module_imports_downwards_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut complaints = Vec::new();
    let files = sources(&src);
    assert!(files.len() > 20, "only {} files found", files.len());
    for path in files {
        let relative = path.strip_prefix(&src).unwrap();
        let module = module_of(relative);
        let module: Vec<&str> = module.iter().map(String::as_str).collect();
        if let Some(room) = module.first() {
            assert!(floor(room).is_some(), "{}: the room is on no floor", relative.display());
        }
        let found = inspect(&module, &fs::read_to_string(&path).unwrap());
        complaints.extend(found.into_iter().map(|c| format!("{}: {c}", relative.display())));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn a_planted_breach_is_caught() {
    for (module, source) in [
        (&["overlay"][..], "use crate::fuse::Mount;"),
        (&["overlay", "copy_up"], "use crate::runner;"),
        (&["runner"], "fn f() { crate::overlay::changes(); }"),
        (&["vocab", "attr"], "use super::super::layer::Handle;"),
        (&["vocab"], "mod tests { use super::super::layer::*; }"),
        (&["layer"], "fn f() { println!(\"{:?}\", crate::cli::run()); }"),
        (&["layer"], "fn f() -> Vec<crate::overlay::Attr> { vec![] }"),
        (&["sys"], "use crate::{vocab::Stat};"),
        (&["fuse"], "use crate::runner::Spec;"),
        (&["cli"], "use fuser::Filesystem;"),
        (&["runner"], "#[derive(Debug, clap::Args)] struct S;"),
        (&["overlay"], "use clap::Parser as P;"),
        (&["overlay"], "fn f() { unsafe { g() } }"),
        (&["fuse"], "unsafe impl Send for S {}"),
        (&["fuse"], "#[allow(unsafe_code)] fn f() {}"),
        (&["fuse"], "fn f() { m!(unsafe { g() }) }"),
        (&["attic"], "use crate::vocab::Stat;"),
    ] {
        assert!(!inspect(module, source).is_empty(), "not caught: {module:?} {source}");
    }
}

#[test]
fn what_is_allowed_is_not_caught() {
    for (module, source) in [
        (&["overlay"][..], "use crate::layer::Handle; use crate::vocab::{Stat, dialect}; use super::overlay::x;"),
        (&["overlay", "attr"], "use super::Overlay; mod tests { use super::*; use super::super::node; }"),
        (&["fuse"], "use fuser::Session; use crate::overlay::Overlay;"),
        (
            &["cli", "run"],
            "use clap::Parser; use crate::{fuse::Mount, runner::Spec}; fn f() { g!(crate::overlay::x()) }",
        ),
        (&["sys", "fd"], "pub fn f() { unsafe { g() } }"),
        (
            &["overlay"],
            "/// As [`crate::fuse`] wants it, not unsafe.\nfn f() { println!(\"say \\\"unsafe\\\" crate::cli\", x); }",
        ),
    ] {
        let complaints = inspect(module, source);
        assert!(complaints.is_empty(), "{source}: {complaints:?}");
    }
}
