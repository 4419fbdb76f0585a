/*
 * user.h: a process that uses a store or a log on a disk in memory, through calls that wait.
 *
 * Every body is bytes that only its key gives, and the truth remembers which key each message or
 * record got, so that whatever is read can be held against what was published.
 *
 * Thread: one. Memory: the caller's structs; a disk and a truth outlive their users.
 */
#ifndef TESTS_PROOF_USER_H
#define TESTS_PROOF_USER_H

#include <qbase/clock.h>
#include <qlog/log.h>

#include "ramdisk.h"
#include "random.h"

enum {
    SUBJECTS = 3,
    SEQUENCES_MAX = 2048, /* of a subject */
    RECORDS_MAX = 2048,   /* of a log */
    TOLD_MAX = 64,
    SEGMENT_BYTES = 64 * 1024
};

extern const char user_directory[]; /* on the disk */

struct truth {
    uint64_t keys[SUBJECTS][SEQUENCES_MAX];
    uint32_t ends[SUBJECTS];
    uint64_t records[RECORDS_MAX]; /* keys of a log's records, in order */
    uint32_t record_count;
    uint64_t last_key;
};

/* An event that the observer was told. */
struct told {
    enum qlog_event_kind kind;
    char log[16];
    char path[RAMDISK_PATH_MAX];
    uint64_t position;
    uint64_t bytes;
    char text[192];
};

struct user {
    struct ramdisk *disk;
    struct truth *truth;
    struct random_source random;
    struct q_clock_manual clock;
    struct qlog_observer observer;
    struct told told[TOLD_MAX];
    unsigned told_count;
    struct qlog_store *store; /* one of these two is open */
    struct qlog *log;
};

/* What a reader got. */
enum got {
    GOT_NOTHING,
    GOT_RIGHT,
    GOT_REFUSED, /* the payload's hash is wrong, so nobody takes it */
    GOT_WRONG,   /* not what was published there, or twice */
};

struct delivered {
    uint8_t messages[SUBJECTS][SEQUENCES_MAX]; /* enum got */
    uint64_t wrong;                            /* also what has no place above */
};

void user_init(struct user *user, struct ramdisk *disk, struct truth *truth, uint64_t seed);
Q_MUST_CHECK enum q_err user_open(struct user *user, bool store);
enum q_err user_close(struct user *user);
/* The process is gone, as by kill -9: nothing it had in mind reaches the disk. */
void user_kill(struct user *user);

/* One batch of 1 … 5 messages, one record. */
Q_MUST_CHECK enum q_err user_publish(struct user *user, unsigned subject, enum qlog_mode mode);
Q_MUST_CHECK enum q_err user_append(struct user *user, enum qlog_mode mode);
/* A member of this group takes some messages and acknowledges some of those. */
Q_MUST_CHECK enum q_err user_consume(struct user *user, unsigned subject, const char *group);
/* A new group takes everything there is. */
Q_MUST_CHECK enum q_err user_read_all(
    struct user *user, const char *group, struct delivered *ret_delivered);
/* Drop all that can be dropped. */
Q_MUST_CHECK enum q_err user_trim(struct user *user);
/* Time passes, and everything settles in it. */
Q_MUST_CHECK enum q_err user_sleep(struct user *user, uint64_t ms);

struct q_bytes user_subject(unsigned subject);

/* The bytes of a key; `*ret_size` at most CONTENT_MAX. */
enum {
    CONTENT_MAX = 16 * 1024
};
void content_of(uint64_t key, uint8_t *out, uint32_t *ret_size);
/* The key that bytes claim; 0: they are not a key's. */
uint64_t content_key(struct q_bytes bytes);

#endif /* TESTS_PROOF_USER_H */
