onlay completions fish | source
