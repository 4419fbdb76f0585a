/*
 * delay/schedule_verify.h: schedule files held against their segments, for `qlog verify`.
 *
 * Thread: one. Blocking: yes; deep, it reads all segments that have a file. Memory: what a file takes.
 */
#ifndef QL_DELAY_SCHEDULE_VERIFY_H
#define QL_DELAY_SCHEDULE_VERIFY_H

#include "segment/home.h"

struct ql_schedule_verify {
    /* Set by the caller. */
    struct ql_home *home; /* opened to read */
    unsigned log;
    bool deep; /* made again from the segment, and compared; else hashes alone */
    void *context;
    void (*on_finding)(void *context, uint64_t position, const char *text);
};

/* Q_OK, also with findings; Q_E_NOMEM, Q_E_FILES. */
Q_MUST_CHECK enum q_err ql_schedule_verify(const struct ql_schedule_verify *verify);

#endif /* QL_DELAY_SCHEDULE_VERIFY_H */
