#include "segment/superblock.h"

#include "io/transfer.h"
#include "planted.h"
#include "segment/dir.h"

enum q_err
ql_superblock_read(struct ql_env *env, int file, uint8_t *block, struct ql_super *ret_super)
{
    char path[QL_PATH_MAX];
    ql_dir_path(env, "superblock", path);
    bool found = false;
    unsigned damaged = 0;
    for (unsigned copy = 0; copy < QL_SUPER_COPIES; copy++) {
        struct ql_transfer read = {
            .op = {
                .kind = QLOG_IO_READ,
                .file = file,
                .buffer = -1,
                .data = block,
                .length = QL_SUPER_SIZE,
                .at = (uint64_t)copy * QL_SUPER_SIZE,
            },
        };
        if (ql_transfer_wait(env->io, &read) < 0) {
            damaged++;
            continue;
        }
        struct ql_super super;
        enum ql_block_state state = ql_super_decode(block, &super);
        if (state == QL_BLOCK_NEWER)
            return Q_FAIL(
                Q_E_VERSION, .path = path, .what = "the directory was written by a newer version",
                .hint = "use that version");
        if (state == QL_BLOCK_FOREIGN) damaged++;
        if (state != QL_BLOCK_GOOD) continue;
        if (!found || super.sequence > ret_super->sequence || QL_PLANTED(super_any))
            *ret_super = super;
        found = true;
    }
    if (found) return Q_OK;
    if (damaged == 0) return Q_NOT_FOUND;
    return Q_FAIL(
        Q_E_CORRUPT, .path = path, .position = 0, .what = "no copy of the superblock is readable",
        .hint = "the logs are untouched; keep the directory and ask for help");
}
