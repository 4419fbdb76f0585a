/*
 * faults.h: an io in front of another one, of which one call fails.
 *
 * Each kind of call is counted; the N-th of the wanted kind fails once, or from then on. Any
 * implementation of `struct qlog_io` can be behind it.
 *
 * Memory that the program under test asks for can be made to fail likewise (faults_memory.c, which
 * the linker puts before malloc and mmap); what the io behind does itself is not counted.
 *
 * Thread: one.
 */
#ifndef TESTS_CRASH_FAULTS_H
#define TESTS_CRASH_FAULTS_H

#include "simdisk.h"

/* X(NAME, text, can be short) */
#define FAULT_SITE_LIST(X)                                                                         \
    X(OPEN, "open", false)                                                                         \
    X(SIZE, "size", false)                                                                         \
    X(ALLOCATE, "allocate", false)                                                                 \
    X(LOCK, "lock", false)                                                                         \
    X(MAP, "map", false)                                                                           \
    X(MAKE_DIRECTORY, "make-directory", false)                                                     \
    X(SYNC_DIRECTORY, "sync-directory", false)                                                     \
    X(LIST, "list", false)                                                                         \
    X(UNLINK, "unlink", false)                                                                     \
    X(SPACE, "space", false)                                                                       \
    X(REGISTER_BUFFER, "register-buffer", false)                                                   \
    X(READ, "read", true)                                                                          \
    X(WRITE, "write", true)                                                                        \
    X(FLUSH, "flush", false)

enum fault_site {
#define FAULT_SITE_ENUM(name, text, can_be_short) FAULT_##name,
    FAULT_SITE_LIST(FAULT_SITE_ENUM)
#undef FAULT_SITE_ENUM
    FAULT_SITES
};

enum fault_kind {
    FAULT_EIO,
    FAULT_EIO_FOR_EVER, /* from the N-th on */
    FAULT_EIO_BUT_DONE, /* it happened, and says that it did not */
    FAULT_ENOSPC,
    FAULT_ENOSPC_FOR_EVER,
    FAULT_EINTR, /* to be tried again */
    FAULT_SHORT, /* half of it */
    FAULT_KINDS
};

struct fault_plan {
    enum fault_site site;
    enum fault_kind kind;
    uint64_t number; /* of the call that fails: 1, 2, … */
};

enum {
    FAULT_FILES_MAX = 256
};

struct faults {
    struct simdisk_front front;
    struct qlog_io *behind;
    struct fault_plan plan;
    uint64_t calls;                /* of the plan's site */
    bool derived[FAULT_FILES_MAX]; /* by file: what a store can do without */
    struct q_list failed;          /* operations that the io behind never sees */
    struct faulty_op *altered;     /* and those whose result is changed */
};

void faults_init(struct faults *faults, struct qlog_io *behind, const struct fault_plan *plan);
const char *fault_site_text(enum fault_site site);
const char *fault_kind_text(enum fault_kind kind);
/* Whether a call of this site can fail in this way. */
bool fault_makes_sense(enum fault_site site, enum fault_kind kind);

/* Let the N-th allocation from now on fail; 0: none. Calls since then, if it was reached or not. */
void fault_memory_arm(uint64_t number);
uint64_t fault_memory_disarm(bool *ret_fired);
/* The io is at work for itself: what it allocates does not count. */
void fault_memory_pause(int change);

#endif /* TESTS_CRASH_FAULTS_H */
