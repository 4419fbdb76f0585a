/*
 * look/directory.h: every file of a log directory and what it is, for tools. Nothing is written.
 *
 * The picture is made of what the files say themselves, and of how a start would read them; it is
 * made also of a directory that does not open, and then says why not. Of one that is in use it is
 * that of a moment.
 *
 * Thread: one. Blocking: yes, it reads headers. Memory: one block, freed by _close().
 */
#ifndef QL_LOOK_DIRECTORY_H
#define QL_LOOK_DIRECTORY_H

#include "segment/home.h"

/* X(NAME, text, may a repair set it aside, what it is) */
/* clang-format off */
#define QL_FILE_STATE_LIST(X) \
    X(SUPERBLOCK, "superblock", false, "which logs there are, and their marks") \
    X(LOCK,       "lock",       false, "held by the process that writes") \
    X(RECOVERY_LOG, "log", false, "what starts after an unclean stop decided, for people") \
    X(ACTIVE,     "active",     false, "is being written, or would be after a start") \
    X(SEALED,     "sealed",     false, "full, and a part of the log") \
    X(SPARE,      "spare",      false, "made ahead, nothing in it yet") \
    X(INDEX,      "index",      false, "tells where a segment's messages are; is made again when it is gone") \
    X(SCHEDULE,   "schedule",   false, "tells which of a segment's delayed messages are due when; is made again when it is gone") \
    X(HALF_MADE,  "half-made",  false, "a spare whose making was cut short; the next start removes it") \
    X(DROPPED,    "dropped",    false, "lies below where the log begins; the next start removes it") \
    X(UNREACHED,  "unreached",  true,  "begins behind the log's end, and nothing leads to it") \
    X(TWIN,       "twin",       true,  "says that it is what another file is") \
    X(NO_HEADER,  "no header",  true,  "the header is damaged, and no frame tells what it is") \
    X(UNREADABLE, "unreadable", false, "the disk does not give its header") \
    X(FOREIGN,    "foreign",    true,  "belongs to another log or directory") \
    X(UNKNOWN,    "unknown",    true,  "no file of a log")
/* clang-format on */

enum ql_file_state {
#define QL_FILE_STATE_ENUM(name, text, aside, meaning) QL_FILE_##name,
    QL_FILE_STATE_LIST(QL_FILE_STATE_ENUM)
#undef QL_FILE_STATE_ENUM
};

enum {
    QL_FILE_NAME_MAX = 256,
    QL_NO_LOG = QL_LOGS_MAX, /* the file lies beside the logs */
};

struct ql_file {
    enum ql_file_state state;
    unsigned log; /* in whose directory it lies */
    char name[QL_FILE_NAME_MAX];
    uint64_t size;
    bool header_good;
    struct ql_segment_header header; /* when it is good */
    uint64_t base;                   /* ACTIVE, SEALED: as a start would read it */
    uint64_t end; /* SEALED: base of the next; ACTIVE: what is known to be durable */
};

struct ql_directory {
    struct ql_env env;    /* path and io */
    struct ql_home *home; /* NULL: it does not open, and `fault` tells why */
    struct q_fault fault;
    bool live;
    struct ql_super super; /* the newest copy, or what the segments tell */
    unsigned copies_good;
    unsigned copies_damaged;
    uint64_t free_bytes; /* of the file system */
    uint64_t total_bytes;
    struct ql_file *files; /* beside the logs, then log by log, by base */
    uint32_t file_count;
    uint32_t file_capacity;
};

/* Q_OK, also when a start would fail. Q_NOT_FOUND, Q_E_FOREIGN (no log at all), Q_E_*. */
Q_MUST_CHECK enum q_err ql_directory_open(const char *path, struct ql_directory **ret_directory);
void ql_directory_close(struct ql_directory *directory);

/* "sealed" */
const char *ql_file_state_text(enum ql_file_state state);
/* In one sentence. */
const char *ql_file_state_meaning(enum ql_file_state state);
/* It holds nothing that a log needs, and may hold what somebody else misses. */
bool ql_file_may_go_aside(enum ql_file_state state);
/* Path of a file; returns `out`. */
const char *ql_directory_file_path(
    const struct ql_directory *directory, const struct ql_file *file, char out[QL_PATH_MAX]);
/* Size of the segments that the log was made with; 0: there is none to see it by. */
uint64_t ql_directory_segment_bytes(const struct ql_directory *directory);

#endif /* QL_LOOK_DIRECTORY_H */
