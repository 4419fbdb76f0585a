/*
 * qbatch/forward.h: send a stored batch, or messages next to each other in it, on to somebody else.
 *
 * What is forwarded carries the forwarder's producer id and request number, by which the receiver
 * knows it again, and the origin, so that its messages keep their ids. The same arguments give the
 * same bytes. Messages of a part are copied as they are: their hashes hold from end to end.
 *
 * Thread:   any; pure functions.
 * Blocking: never.
 * Memory:   the caller's.
 * Format:   qbatch/layout.h.
 */
#ifndef QBATCH_FORWARD_H
#define QBATCH_FORWARD_H

#include <qbatch/batch.h>
#include <qbatch/build.h>

struct qbatch_forward {
    const struct qbatch *batch; /* opened; its payload was checked */
    const uint8_t *payload;     /* as stored: for all of the batch */
    struct q_bytes content;     /* qbatch_content(): for a part of it */
    uint32_t first;             /* message index */
    uint32_t count;
    uint8_t producer_id[16];
    struct qbatch_request_place place;
};

/* Exact sizes of what _write() writes; multiples of 8. */
void qbatch_forward_size(
    const struct qbatch_forward *forward, uint32_t *ret_envelope_size, uint32_t *ret_payload_size);
/* The broker's prefix is zero. With a due time in its place the batch is as its producer made it, if
 * the producer id is that one's; without, it is a forwarded one, and due no more. */
void qbatch_forward_write(
    const struct qbatch_forward *forward, uint8_t *envelope, uint8_t *payload);
/* Number it again, when the request is known that it has become a part of. */
void qbatch_forward_number(uint8_t *envelope, const struct qbatch_request_place *place);

#endif /* QBATCH_FORWARD_H */
