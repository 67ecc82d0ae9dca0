"""The patch engine: insert-only patches, applied by pristine line number and checked by blob hash.

patchfile   what a patch file may say, read and written      inserter    pristine bytes + insertions -> bytes
catalog     upstreams.toml, series, patches of every host     git         the few questions put to git
fetch       gets the submodules that are asked for            record      what we wrote, kept in the checkout's git dir
locate      our lines in a file that a user has edited        tree        what state each file of a checkout is in
plan        which bytes go where, or why not                  transaction writes them all or none
refresh, show (audit and edits), check, status                one command each; cli joins them
provenance  what a result was made with, for the ledger
"""
