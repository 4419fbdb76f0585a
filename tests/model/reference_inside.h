/*
 * reference_inside.h: what the parts of the model share.
 *
 *   reference.c       rows; sessions; groups as a whole; time
 *   reference_pull.c  pulls, acks, negative acks
 *
 * Thread: one.
 */
#ifndef TESTS_MODEL_REFERENCE_INSIDE_H
#define TESTS_MODEL_REFERENCE_INSIDE_H

#include "reference.h"

/* What a message that comes back has used of its attempts. */
enum ref_use {
    REF_USE_NONE,
    REF_USE_FAILED,
    REF_USE_TIMED_OUT,
    REF_USE_DIED
};

/* Rows of a group that may be held or pending. */
#define for_each_row(group, row)                                                                   \
    for (struct ref_row *row = (group)->rows; row < (group)->rows + (group)->cursor; row++)

uint64_t ref_in_place(const struct ref_group *group, enum ref_place place);
uint64_t ref_held_by(const struct ref_group *group, uint32_t consumer);
/* Bits of the filters that are kept; of those with members only. */
uint16_t ref_filters_of(const struct ref_group *group, bool live);
uint16_t ref_takers_of(
    const struct ref_group *group, uint32_t number, const struct ref_message *message);
void ref_row_done(struct ref_row *row);
void ref_row_pending(
    struct ref_group *group, struct ref_row *row, enum ref_reason reason, uint64_t due_ms);
/* A message comes back, and may have used an attempt. */
void ref_row_back(struct ref_group *group, struct ref_row *row, enum ref_use use, uint64_t due_ms);
/* All dying ones are copied, and dead. */
void ref_bury(struct reference *ref);
/* The next pull sequence of a consumer: none is given twice, whatever a crash took. */
uint64_t ref_next_of(const struct ref_state *state, const struct ref_consumer *consumer);
enum q_err ref_find(
    struct reference *ref, const struct ref_who *who, struct ref_consumer **ret_consumer);
/* Why nothing new is given although messages wait. */
enum qlog_held ref_why_held(const struct ref_group *group);

#endif /* TESTS_MODEL_REFERENCE_INSIDE_H */
