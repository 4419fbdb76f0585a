/*
 * full_disk_truth.h: what was said about each message, and whether the store holds to it.
 *
 * A body tells which publish, batch and message it is; the rest of it follows from that. What was
 * acknowledged has a place in its subject's sequences; each group gets it once in each session until
 * it acknowledges it, in order, and never again after that.
 *
 * Thread: one.
 */
#ifndef TESTS_CRASH_FULL_DISK_TRUTH_H
#define TESTS_CRASH_FULL_DISK_TRUTH_H

#include <qbase/bytes.h>
#include <qlog/store.h>

enum {
    SUBJECTS = 3,
    GROUPS = 2,
    BODY_MIN = 24,
    COMPLAINTS_MAX = 20
};

enum fate {
    FATE_UNDER_WAY,
    FATE_KEPT,    /* acknowledged */
    FATE_REFUSED, /* must never be seen */
    FATE_UNKNOWN, /* the process ended before its answer */
};

struct message {
    uint64_t publish; /* from 1; 0: nobody was told of this sequence */
    uint32_t batch;
    uint32_t index;
    uint8_t seen[GROUPS]; /* enum seen */
};

/* One group of one subject. */
struct reader {
    uint64_t settled;  /* every message below is acknowledged */
    uint64_t expected; /* this session goes on here at the earliest */
};

struct subject {
    struct message *messages; /* by sequence */
    uint64_t count;
    uint64_t capacity;
    struct reader readers[GROUPS];
};

struct truth {
    struct subject subjects[SUBJECTS];
    uint8_t *fates; /* of publishes */
    uint64_t publishes;
    uint64_t fates_capacity;
    uint64_t lost;
    uint64_t phantom;
    uint64_t failed;
    unsigned complaints;
};

void truth_free(struct truth *truth);
/* The number of a new publish. */
uint64_t truth_publish(struct truth *truth);
void truth_body(uint64_t publish, uint32_t batch, uint32_t index, uint8_t *out, uint32_t size);
bool truth_body_is_whole(struct q_bytes body);
/* A batch of an acknowledged publish has these sequences. */
void truth_kept(
    struct truth *truth,
    unsigned subject,
    uint64_t first,
    uint32_t count,
    const struct message *message);
/* All sessions ended; what was handed out may come again. */
void truth_restart(struct truth *truth);
void truth_delivered(
    struct truth *truth, unsigned subject, unsigned group, uint64_t sequence, struct q_bytes body);
/* `sure`: it was answered. */
void truth_acked(
    struct truth *truth,
    unsigned subject,
    unsigned group,
    const struct qlog_range *range,
    bool sure);
/* A pull found nothing more. */
void truth_drained(struct truth *truth, unsigned subject, unsigned group);
/* Something that is neither lost nor phantom. */
void truth_fail(struct truth *truth, const char *format, ...) Q_PRINTF(2, 3);

#endif /* TESTS_CRASH_FULL_DISK_TRUTH_H */
