"""The patch engine: insert-only patches, applied by pristine line number and checked by blob hash.

patchfile   what a patch file may say, read and written      inserter    pristine bytes + insertions -> bytes
catalog     upstreams.toml, series, patches of every host     git         the few questions put to git
tree        what state each file of a checkout is in          record      what we wrote, kept in the checkout's git dir
plan        which bytes go where, or why not                  transaction writes them all or none
refresh, show, check, status                                  one command each; cli joins them
"""
