"""The patch engine: insert-only patches, applied by pristine line number and checked by blob hash.

patchfile   reads and writes the format of patch files        inserter    pristine bytes + insertions -> bytes
catalog     upstreams.toml, series, patches of every host     git         the few queries to git
fetch       fetches the requested submodules                  record      what we wrote, kept in the checkout's git dir
locate      our lines in a file that a user has edited        tree        the state of each file of a checkout
plan        which bytes go where, or why not                  transaction writes all files or none
refresh, show (audit and edits), check, status                one command each; cli combines them
provenance  what a result was made with, for the ledger
"""
