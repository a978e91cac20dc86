# For bash-completion: what the installed binary prints is what it takes.
eval "$(onlay completions bash)"
