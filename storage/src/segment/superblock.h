/*
 * segment/superblock.h: reading the superblock's copies.
 *
 * Thread: any, with an io of its own. Blocking.
 */
#ifndef QL_SEGMENT_SUPERBLOCK_H
#define QL_SEGMENT_SUPERBLOCK_H

#include "format/block.h"
#include "segment/env.h"

/*
 * The newest good copy. `block`: QL_SUPER_SIZE aligned bytes to read into. Q_OK; Q_NOT_FOUND: there
 * is none, and never was; Q_E_CORRUPT: there was; Q_E_VERSION.
 */
Q_MUST_CHECK enum q_err ql_superblock_read(
    struct ql_env *env, int file, uint8_t *block, struct ql_super *ret_super);

#endif /* QL_SEGMENT_SUPERBLOCK_H */
