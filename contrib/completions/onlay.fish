# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_onlay_global_optspecs
    string join \n root= h/help V/version
end

function __fish_onlay_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_onlay_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_onlay_using_subcommand
    set -l cmd (__fish_onlay_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c onlay -n "__fish_onlay_needs_command" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_needs_command" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_needs_command" -s V -l version -d 'Print version'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "mount" -d 'Stack directories and mount the merged view'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "umount" -d 'Unmount a merged view, once everything is written'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "unmount" -d 'Unmount a merged view, once everything is written'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "run" -d 'Run a command in the merged view, in namespaces of its own'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "diff" -d 'List what a container, an image or an upper directory changes'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "create" -d 'Make a container without running it'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "ps" -d 'List containers'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "exec" -d 'Run one more command in a container'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "attach" -d 'Come back to a container that runs'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "cp" -d 'Copy files between a container and here'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "logs" -d 'Print what a detached container has printed'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "start" -d 'Start containers again'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "stop" -d 'End containers in order'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "restart" -d 'Stop containers and start them again'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "kill" -d 'Send a signal to containers'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "wait" -d 'Wait for the end of containers'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "top" -d 'List the processes of a container'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "stats" -d 'Print what containers use'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "rm" -d 'Remove containers'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "commit" -d 'Make an image of a container'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "export" -d 'Write the files of a container or an image to an archive'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "images" -d 'List images'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "history" -d 'List the layers of an image'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "inspect" -d 'Print all that is known of images and containers'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "pull" -d 'Fetch an image from a registry'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "push" -d 'Send an image to a registry'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "tag" -d 'Give an image one more name'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "rmi" -d 'Remove images'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "load" -d 'Load images from an archive'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "save" -d 'Write images to an archive'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "import" -d 'Make an image of a root file system'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "df" -d 'Print how much the store holds'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "gc" -d 'Remove what nothing needs'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "login" -d 'Log in to a registry'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "logout" -d 'Forget a login to a registry'
complete -c onlay -n "__fish_onlay_needs_command" -f -a "completions" -d 'Print completions for a shell'
complete -c onlay -n "__fish_onlay_using_subcommand mount" -s l -l lower -d 'A read-only layer; the first one is the top' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand mount" -s u -l upper -d 'Where changes go; without it the view is read only' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand mount" -s w -l work -d 'An empty directory on the upper\'s file system' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand mount" -s o -d 'Options as of mount(8)' -r
complete -c onlay -n "__fish_onlay_using_subcommand mount" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand mount" -s f -l foreground -d 'Stay in the foreground; ^C unmounts'
complete -c onlay -n "__fish_onlay_using_subcommand mount" -s v -l verbose -d 'Say on stderr which mechanisms save requests here, and why not'
complete -c onlay -n "__fish_onlay_using_subcommand mount" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand umount" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand umount" -s l -l lazy -d 'Detach it now; its last users are served until they let go'
complete -c onlay -n "__fish_onlay_using_subcommand umount" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand unmount" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand unmount" -s l -l lazy -d 'Detach it now; its last users are served until they let go'
complete -c onlay -n "__fish_onlay_using_subcommand unmount" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand run" -l rootfs -d 'The one lower layer: an unpacked root' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand run" -l lower -d 'A lower layer; repeat it, the top one first' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand run" -l upper -d 'Where changes go [default: a directory that is removed in the end]' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand run" -l work -d 'An empty directory on the file system of the upper' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand run" -l name -d 'A name for the container [default: one is made up]' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -s l -l label -d 'Say something of it, which `ps --filter label=` finds' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l label-file -d 'Labels from a file, one a line; # begins a comment' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand run" -l cidfile -d 'Write its id to a new file' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand run" -l pull -d 'When to fetch the image from its registry [default: missing, for a name that begins with the registry\'s]' -r -f -a "missing\t'If it is not here'
always\t'Every time, so that a moved tag is seen'
never\t'Not at all'"
complete -c onlay -n "__fish_onlay_using_subcommand run" -l stop-signal -d 'The signal by which `stop` ends it [default: as the image says, or TERM]' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l stop-timeout -d 'How many seconds `stop` then waits [default: 10]' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l detach-keys -d 'Keys that leave it to itself, with -it; an empty word: none do' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -s e -l env -d 'Set a variable; without a value, take it over from here' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l env-file -d 'Variables from a file, one a line; # begins a comment' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand run" -s w -l workdir -d 'The working directory inside [default: the image\'s, or /; with --host: this one]' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand run" -s u -l user -d 'Whom the command runs as: names of the view\'s /etc/passwd and /etc/group, or numbers [default: root]' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l ulimit -d 'Limit a resource of each process, as setrlimit(2) names them (nofile, nproc, core, ..)' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l entrypoint -d 'The program to run, whatever the image says; the command is its arguments' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -s m -l memory -d 'How much memory all processes may have: whoever wants more is killed (64m, 1.5g)' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l memory-swap -d 'Memory and swap space together; -1 is all swap space there is [default: twice --memory]' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l cpus -d 'How many processors\' time they may take (1.5)' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l cpuset-cpus -d 'Which processors they run on, and the service of the files with them (0-2,4)' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l pids-limit -d 'How many processes and threads there may be; -1 is no limit' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -s v -l volume -d 'Show a directory or file of the machine inside; options: ro, rw, nosuid, nodev, noexec (z and Z are ignored)' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l mount -d 'The same in words: type=bind,src=DIR,dst=DIR[,ro] or type=tmpfs,dst=DIR[,tmpfs-size=N][,tmpfs-mode=N]' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l tmpfs -d 'An empty directory in memory; options as tmpfs(5) takes them (size=64m, mode=700), ro, exec, suid' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l network -l net -d 'The network inside [default: none, with --host: host]' -r -f -a "host\t'The machine\'s'
none\t'Nothing but loopback'
pasta\t'Its own, connected without root by pasta (package passt)'
slirp4netns\t'Its own, connected without root by slirp4netns'"
complete -c onlay -n "__fish_onlay_using_subcommand run" -s p -l publish -d 'Let a port of the machine lead to one inside [default address: all of the machine\'s]' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -s h -l hostname -d 'The host name inside [default: the container\'s id, onlay where there is none, with --host: the machine\'s]' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l dns -d 'Ask this server for names, and none of the machine\'s' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l dns-search -d 'Try this domain behind names, and none of the machine\'s; . is none' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l dns-option -l dns-opt -d 'An option of resolv.conf(5), instead of the machine\'s' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l add-host -d 'One more name inside, and what it stands for; host-gateway is this machine' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l cap-add -d 'Add a capability (of the new user namespace: none reaches the machine), or ALL' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l cap-drop -d 'Drop a capability, or ALL' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l security-opt -d 'no-new-privileges[=false], seccomp=FILE or seccomp=unconfined, mask=PATH[:PATH..], unmask=ALL or unmask=PATH[:PATH..]' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand run" -l host -d 'The machine\'s own root as the lower layer: nothing of it is changed'
complete -c onlay -n "__fish_onlay_using_subcommand run" -s d -l detach -d 'Do not wait for it: it goes on without this terminal, `onlay logs` shows what it prints'
complete -c onlay -n "__fish_onlay_using_subcommand run" -l rm -d 'Remove the container when it ends'
complete -c onlay -n "__fish_onlay_using_subcommand run" -s i -l interactive -d 'Keep standard input open'
complete -c onlay -n "__fish_onlay_using_subcommand run" -s t -l tty -d 'A terminal of its own'
complete -c onlay -n "__fish_onlay_using_subcommand run" -l init -d 'An init as process 1: there always is one'
complete -c onlay -n "__fish_onlay_using_subcommand run" -l read-only -d 'Nothing can be written to but volumes and tmpfs'
complete -c onlay -n "__fish_onlay_using_subcommand run" -l dry-run -d 'Print what would be done'
complete -c onlay -n "__fish_onlay_using_subcommand run" -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand diff" -s l -l lower -d 'The layers below it, the top one first' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand diff" -l format -d 'How to print it' -r -f -a "text\t'A letter and a path on each line; a line break in a name is printed as \\n, a backslash as \\\\'
json\t'An array of objects with `change` and `path`'"
complete -c onlay -n "__fish_onlay_using_subcommand diff" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c onlay -n "__fish_onlay_using_subcommand create" -l rootfs -d 'The one lower layer: an unpacked root' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand create" -l lower -d 'A lower layer; repeat it, the top one first' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand create" -l upper -d 'Where changes go [default: a directory that is removed in the end]' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand create" -l work -d 'An empty directory on the file system of the upper' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand create" -l name -d 'A name for the container [default: one is made up]' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -s l -l label -d 'Say something of it, which `ps --filter label=` finds' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l label-file -d 'Labels from a file, one a line; # begins a comment' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand create" -l cidfile -d 'Write its id to a new file' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand create" -l pull -d 'When to fetch the image from its registry [default: missing, for a name that begins with the registry\'s]' -r -f -a "missing\t'If it is not here'
always\t'Every time, so that a moved tag is seen'
never\t'Not at all'"
complete -c onlay -n "__fish_onlay_using_subcommand create" -l stop-signal -d 'The signal by which `stop` ends it [default: as the image says, or TERM]' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l stop-timeout -d 'How many seconds `stop` then waits [default: 10]' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l detach-keys -d 'Keys that leave it to itself, with -it; an empty word: none do' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -s e -l env -d 'Set a variable; without a value, take it over from here' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l env-file -d 'Variables from a file, one a line; # begins a comment' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand create" -s w -l workdir -d 'The working directory inside [default: the image\'s, or /; with --host: this one]' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand create" -s u -l user -d 'Whom the command runs as: names of the view\'s /etc/passwd and /etc/group, or numbers [default: root]' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l ulimit -d 'Limit a resource of each process, as setrlimit(2) names them (nofile, nproc, core, ..)' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l entrypoint -d 'The program to run, whatever the image says; the command is its arguments' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -s m -l memory -d 'How much memory all processes may have: whoever wants more is killed (64m, 1.5g)' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l memory-swap -d 'Memory and swap space together; -1 is all swap space there is [default: twice --memory]' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l cpus -d 'How many processors\' time they may take (1.5)' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l cpuset-cpus -d 'Which processors they run on, and the service of the files with them (0-2,4)' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l pids-limit -d 'How many processes and threads there may be; -1 is no limit' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -s v -l volume -d 'Show a directory or file of the machine inside; options: ro, rw, nosuid, nodev, noexec (z and Z are ignored)' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l mount -d 'The same in words: type=bind,src=DIR,dst=DIR[,ro] or type=tmpfs,dst=DIR[,tmpfs-size=N][,tmpfs-mode=N]' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l tmpfs -d 'An empty directory in memory; options as tmpfs(5) takes them (size=64m, mode=700), ro, exec, suid' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l network -l net -d 'The network inside [default: none, with --host: host]' -r -f -a "host\t'The machine\'s'
none\t'Nothing but loopback'
pasta\t'Its own, connected without root by pasta (package passt)'
slirp4netns\t'Its own, connected without root by slirp4netns'"
complete -c onlay -n "__fish_onlay_using_subcommand create" -s p -l publish -d 'Let a port of the machine lead to one inside [default address: all of the machine\'s]' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -s h -l hostname -d 'The host name inside [default: the container\'s id, onlay where there is none, with --host: the machine\'s]' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l dns -d 'Ask this server for names, and none of the machine\'s' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l dns-search -d 'Try this domain behind names, and none of the machine\'s; . is none' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l dns-option -l dns-opt -d 'An option of resolv.conf(5), instead of the machine\'s' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l add-host -d 'One more name inside, and what it stands for; host-gateway is this machine' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l cap-add -d 'Add a capability (of the new user namespace: none reaches the machine), or ALL' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l cap-drop -d 'Drop a capability, or ALL' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l security-opt -d 'no-new-privileges[=false], seccomp=FILE or seccomp=unconfined, mask=PATH[:PATH..], unmask=ALL or unmask=PATH[:PATH..]' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand create" -l host -d 'The machine\'s own root as the lower layer: nothing of it is changed'
complete -c onlay -n "__fish_onlay_using_subcommand create" -s d -l detach -d 'Do not wait for it: it goes on without this terminal, `onlay logs` shows what it prints'
complete -c onlay -n "__fish_onlay_using_subcommand create" -l rm -d 'Remove the container when it ends'
complete -c onlay -n "__fish_onlay_using_subcommand create" -s i -l interactive -d 'Keep standard input open'
complete -c onlay -n "__fish_onlay_using_subcommand create" -s t -l tty -d 'A terminal of its own'
complete -c onlay -n "__fish_onlay_using_subcommand create" -l init -d 'An init as process 1: there always is one'
complete -c onlay -n "__fish_onlay_using_subcommand create" -l read-only -d 'Nothing can be written to but volumes and tmpfs'
complete -c onlay -n "__fish_onlay_using_subcommand create" -l dry-run -d 'Print what would be done'
complete -c onlay -n "__fish_onlay_using_subcommand create" -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand ps" -s f -l filter -d 'Only those with a label, a name (part of it, or ^NAME$), an id, a status (created, running, exited, dead), an exit code, of an image; of several of one kind, but labels, one is enough' -r
complete -c onlay -n "__fish_onlay_using_subcommand ps" -l format -d 'How to print it' -r -f -a "table\t'Columns for people'
json\t'An array of objects'"
complete -c onlay -n "__fish_onlay_using_subcommand ps" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand ps" -s a -l all -d 'Those that do not run, too'
complete -c onlay -n "__fish_onlay_using_subcommand ps" -s q -l quiet -d 'Only ids'
complete -c onlay -n "__fish_onlay_using_subcommand ps" -l no-trunc -d 'Cut nothing short: whole ids, digests and commands'
complete -c onlay -n "__fish_onlay_using_subcommand ps" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c onlay -n "__fish_onlay_using_subcommand exec" -l detach-keys -d 'Keys that leave it to itself, with -it; an empty word: none do' -r
complete -c onlay -n "__fish_onlay_using_subcommand exec" -s e -l env -d 'Set a variable; without a value, take it over from here' -r
complete -c onlay -n "__fish_onlay_using_subcommand exec" -l env-file -d 'Variables from a file, one a line; # begins a comment' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand exec" -s w -l workdir -d 'The working directory inside [default: the image\'s, or /; with --host: this one]' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand exec" -s u -l user -d 'Whom the command runs as: names of the view\'s /etc/passwd and /etc/group, or numbers [default: root]' -r
complete -c onlay -n "__fish_onlay_using_subcommand exec" -l ulimit -d 'Limit a resource of each process, as setrlimit(2) names them (nofile, nproc, core, ..)' -r
complete -c onlay -n "__fish_onlay_using_subcommand exec" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand exec" -s d -l detach -d 'Do not wait for it'
complete -c onlay -n "__fish_onlay_using_subcommand exec" -s i -l interactive -d 'Keep standard input open'
complete -c onlay -n "__fish_onlay_using_subcommand exec" -s t -l tty -d 'A terminal of its own'
complete -c onlay -n "__fish_onlay_using_subcommand exec" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand attach" -l detach-keys -d 'Keys that leave it to itself again; an empty word: none do' -r
complete -c onlay -n "__fish_onlay_using_subcommand attach" -l sig-proxy -d 'Send signals that would end us on to it' -r -f -a "true\t''
false\t''"
complete -c onlay -n "__fish_onlay_using_subcommand attach" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand attach" -l no-stdin -d 'What is typed here is not its'
complete -c onlay -n "__fish_onlay_using_subcommand attach" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand cp" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand cp" -s a -l archive -d 'Keep owners and all mode bits'
complete -c onlay -n "__fish_onlay_using_subcommand cp" -s L -l follow-link -d 'Follow a symbolic link that SRC is'
complete -c onlay -n "__fish_onlay_using_subcommand cp" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand logs" -s n -l tail -d 'Only the last lines' -r
complete -c onlay -n "__fish_onlay_using_subcommand logs" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand logs" -s f -l follow -d 'Go on with what comes, until the container ends'
complete -c onlay -n "__fish_onlay_using_subcommand logs" -s t -l timestamps -d 'When each line was printed'
complete -c onlay -n "__fish_onlay_using_subcommand logs" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand start" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand start" -s a -l attach -d 'Stay here: its outputs are ours, and its exit code'
complete -c onlay -n "__fish_onlay_using_subcommand start" -s i -l interactive -d 'Its input is ours, too'
complete -c onlay -n "__fish_onlay_using_subcommand start" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand stop" -s t -l time -d 'Seconds until it is killed [default: as --stop-timeout said, or 10]' -r
complete -c onlay -n "__fish_onlay_using_subcommand stop" -s s -l signal -d 'The signal that asks it to end [default: as --stop-signal or the image said, or TERM]' -r
complete -c onlay -n "__fish_onlay_using_subcommand stop" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand stop" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand restart" -s t -l time -d 'Seconds until it is killed [default: as --stop-timeout said, or 10]' -r
complete -c onlay -n "__fish_onlay_using_subcommand restart" -s s -l signal -d 'The signal that asks it to end [default: as --stop-signal or the image said, or TERM]' -r
complete -c onlay -n "__fish_onlay_using_subcommand restart" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand restart" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand kill" -s s -l signal -d 'Its name or number' -r
complete -c onlay -n "__fish_onlay_using_subcommand kill" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand kill" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand wait" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand wait" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand top" -l format -d 'How to print it' -r -f -a "table\t'Columns for people'
json\t'An array of objects'"
complete -c onlay -n "__fish_onlay_using_subcommand top" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c onlay -n "__fish_onlay_using_subcommand stats" -l format -d 'How to print it' -r -f -a "table\t'Columns for people'
json\t'An array of objects'"
complete -c onlay -n "__fish_onlay_using_subcommand stats" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand stats" -l no-stream -d 'Once, which it always is'
complete -c onlay -n "__fish_onlay_using_subcommand stats" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c onlay -n "__fish_onlay_using_subcommand rm" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand rm" -s f -l force -d 'Kill those that run; those that are not there are no mistake'
complete -c onlay -n "__fish_onlay_using_subcommand rm" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand commit" -s c -l change -d 'An instruction as in a Dockerfile: CMD, ENTRYPOINT, ENV, LABEL, WORKDIR, USER, STOPSIGNAL, EXPOSE' -r
complete -c onlay -n "__fish_onlay_using_subcommand commit" -s m -l message -d 'A line for the history' -r
complete -c onlay -n "__fish_onlay_using_subcommand commit" -s a -l author -d 'Who made it' -r
complete -c onlay -n "__fish_onlay_using_subcommand commit" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand commit" -s q -l quiet -d 'No progress'
complete -c onlay -n "__fish_onlay_using_subcommand commit" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand export" -s o -l output -d 'Where to [default: standard output]' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand export" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand export" -s q -l quiet -d 'No progress'
complete -c onlay -n "__fish_onlay_using_subcommand export" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand images" -l format -d 'How to print it' -r -f -a "table\t'Columns for people'
json\t'An array of objects'"
complete -c onlay -n "__fish_onlay_using_subcommand images" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand images" -s q -l quiet -d 'Only ids'
complete -c onlay -n "__fish_onlay_using_subcommand images" -l no-trunc -d 'Cut nothing short: whole ids, digests and commands'
complete -c onlay -n "__fish_onlay_using_subcommand images" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c onlay -n "__fish_onlay_using_subcommand history" -l format -d 'How to print it' -r -f -a "table\t'Columns for people'
json\t'An array of objects'"
complete -c onlay -n "__fish_onlay_using_subcommand history" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand history" -l no-trunc -d 'Whole ids and commands'
complete -c onlay -n "__fish_onlay_using_subcommand history" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c onlay -n "__fish_onlay_using_subcommand inspect" -l format -d 'How to print it' -r -f -a "json\t'An array of objects'"
complete -c onlay -n "__fish_onlay_using_subcommand inspect" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand inspect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c onlay -n "__fish_onlay_using_subcommand pull" -l platform -d 'The image for other machines: OS/ARCH[/VARIANT] [default: this one\'s]' -r
complete -c onlay -n "__fish_onlay_using_subcommand pull" -l tls-verify -d 'Whether the registry must prove who it is and everything is encrypted; on this machine it need not be' -r -f -a "true\t''
false\t''"
complete -c onlay -n "__fish_onlay_using_subcommand pull" -l authfile -d 'The file with logins [default: where podman and docker keep them]' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand pull" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand pull" -s q -l quiet -d 'No progress, only the id'
complete -c onlay -n "__fish_onlay_using_subcommand pull" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand push" -l tls-verify -d 'Whether the registry must prove who it is and everything is encrypted; on this machine it need not be' -r -f -a "true\t''
false\t''"
complete -c onlay -n "__fish_onlay_using_subcommand push" -l authfile -d 'The file with logins [default: where podman and docker keep them]' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand push" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand push" -s q -l quiet -d 'No progress, only the digest'
complete -c onlay -n "__fish_onlay_using_subcommand push" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand tag" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand tag" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand rmi" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand rmi" -s f -l force -d 'Also if it has several names, or containers are made of it (they keep its layers)'
complete -c onlay -n "__fish_onlay_using_subcommand rmi" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand load" -s i -l input -d 'An archive or a directory [default: an archive on standard input]' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand load" -s t -l tag -d 'A name for the image, where there is only one' -r
complete -c onlay -n "__fish_onlay_using_subcommand load" -l platform -d 'The image for other machines: OS/ARCH [default: this one\'s]' -r
complete -c onlay -n "__fish_onlay_using_subcommand load" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand load" -s q -l quiet -d 'No progress, only ids'
complete -c onlay -n "__fish_onlay_using_subcommand load" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand save" -s o -l output -d 'Where to [default: standard output]' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand save" -l format -d 'What kind of archive' -r -f -a "oci\t'An OCI image layout'
docker\t'What docker load takes'"
complete -c onlay -n "__fish_onlay_using_subcommand save" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand save" -s q -l quiet -d 'No progress'
complete -c onlay -n "__fish_onlay_using_subcommand save" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c onlay -n "__fish_onlay_using_subcommand import" -s c -l change -d 'An instruction as in a Dockerfile: CMD, ENTRYPOINT, ENV, LABEL, WORKDIR, USER, STOPSIGNAL, EXPOSE' -r
complete -c onlay -n "__fish_onlay_using_subcommand import" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand import" -s q -l quiet -d 'No progress'
complete -c onlay -n "__fish_onlay_using_subcommand import" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand df" -l format -d 'How to print it' -r -f -a "table\t'Columns for people'
json\t'An array of objects'"
complete -c onlay -n "__fish_onlay_using_subcommand df" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand df" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c onlay -n "__fish_onlay_using_subcommand gc" -l format -d 'How to print it' -r -f -a "table\t'Columns for people'
json\t'An array of objects'"
complete -c onlay -n "__fish_onlay_using_subcommand gc" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand gc" -l untagged -d 'Images without a name, too, unless a container is made of them'
complete -c onlay -n "__fish_onlay_using_subcommand gc" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c onlay -n "__fish_onlay_using_subcommand login" -s u -l username -d 'The name to log in with [default: asked for]' -r
complete -c onlay -n "__fish_onlay_using_subcommand login" -l tls-verify -d 'Whether the registry must prove who it is and everything is encrypted; on this machine it need not be' -r -f -a "true\t''
false\t''"
complete -c onlay -n "__fish_onlay_using_subcommand login" -l authfile -d 'The file with logins [default: where podman and docker keep them]' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand login" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand login" -l password-stdin -d 'Read the password from standard input'
complete -c onlay -n "__fish_onlay_using_subcommand login" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand logout" -l authfile -d 'The file with logins [default: where podman keeps them]' -r -F
complete -c onlay -n "__fish_onlay_using_subcommand logout" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand logout" -s a -l all -d 'All logins there are'
complete -c onlay -n "__fish_onlay_using_subcommand logout" -s h -l help -d 'Print help'
complete -c onlay -n "__fish_onlay_using_subcommand completions" -l root -d 'Where images and containers are kept [default: $XDG_DATA_HOME/onlay, for root /var/lib/onlay]' -r
complete -c onlay -n "__fish_onlay_using_subcommand completions" -s h -l help -d 'Print help'
