# Puts the programs of build/ on PATH. Source it from the top of the tree: . scripts/env.sh
PATH=$PWD/build/tools/qmq:$PWD/build/tools/qlog:$PWD/build/servers:$PATH
export PATH
