/*
 * common/exit.h: what the exit code of a server says.
 *
 * SRV_EXIT_LIST(X) expands X(NAME, code, meaning). The codes are part of the interface: scripts and
 * service managers act on them. `--help` prints this table. Codes below 10 mean the same as those
 * of `qmq`.
 */
#ifndef SRV_COMMON_EXIT_H
#define SRV_COMMON_EXIT_H

#include <stdio.h>

#include <qbase/err.h>

/* clang-format off */
#define SRV_EXIT_LIST(X) \
    X(OK,              0, "stopped when asked to") \
    X(FAILED,          1, "any failure without a code of its own") \
    X(USAGE,           2, "wrong command line; nothing was touched") \
    X(PERMISSION,      5, "a file, directory or port may not be used by this user") \
    X(CORRUPT,         8, "stored data is damaged") \
    X(LOCKED,         10, "another process uses the data directory") \
    X(ADDRESS_IN_USE, 11, "another process listens on the port") \
    X(FOREIGN,        12, "the data directory holds something else") \
    X(NOT_DIRECTORY,  13, "a file stands where a directory should be") \
    X(IS_DIRECTORY,   14, "a directory stands where a file should be") \
    X(NO_SPACE,       15, "the disk is full") \
    X(VERSION,        16, "the data was written by another version") \
    X(BROKEN,         17, "a write or flush failed while running; start again to recover")
/* clang-format on */

enum srv_exit {
#define SRV_EXIT_ENUM(name, code, meaning) SRV_EXIT_##name = (code),
    SRV_EXIT_LIST(SRV_EXIT_ENUM)
#undef SRV_EXIT_ENUM
};

/* The code for what went wrong at start. */
enum srv_exit srv_exit_of(const struct q_fault *fault);
/* One line per code. */
void srv_exit_print_help(FILE *out);

#endif /* SRV_COMMON_EXIT_H */
