//! A list of calls as one program that finds a call's number by halves. The kernel runs a new filter once for every number
//! there is, and each call of a program's later: a list that is gone through from its beginning costs both a lot.

use seccompiler::sock_filter;

use super::{JUMP_EQUAL, LOAD, RETURN, statement};

/// What becomes of a call: the last instructions for it, of which each way ends with a return.
pub(super) type Leaf = Vec<sock_filter>;

const JUMP: u16 = 0x05;
const JUMP_NOT_BELOW: u16 = 0x35;

/// The program for calls of one `architecture` (`AUDIT_ARCH_..`): each number belongs to the last of `spans` that begins at or
/// below it; the first begins at 0. Another architecture's calls kill.
pub(super) fn program(architecture: u32, spans: &[(u32, Leaf)]) -> Vec<sock_filter> {
    let mut program = vec![
        statement(LOAD, 4),
        sock_filter { code: JUMP_EQUAL, jt: 1, jf: 0, k: architecture },
        statement(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        statement(LOAD, 0),
    ];
    program.extend(halves(spans));
    program
}

fn halves(spans: &[(u32, Leaf)]) -> Vec<sock_filter> {
    let (below, rest) = spans.split_at(spans.len() / 2);
    match (below, rest) {
        (_, []) => Vec::new(),
        ([], [(_, leaf), ..]) => leaf.clone(),
        (below, [(start, _), ..]) => {
            let below = halves(below);
            let mut program = match u8::try_from(below.len()) {
                Ok(skip) => vec![sock_filter { code: JUMP_NOT_BELOW, jt: skip, jf: 0, k: *start }],
                // Farther than a conditional jump goes. No program is longer than the kernel takes, 4096.
                Err(_) => vec![
                    sock_filter { code: JUMP_NOT_BELOW, jt: 0, jf: 1, k: *start },
                    statement(JUMP, u32::try_from(below.len()).unwrap_or(u32::MAX)),
                ],
            };
            program.extend(below);
            program.extend(halves(rest));
            program
        }
    }
}
