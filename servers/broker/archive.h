/*
 * broker/archive.h: keep what retention drops.
 *
 * Segments of the message log are copied into a directory, which qlog then reads like a store's:
 *
 *   DIR/message/segment-NNNNNN   in the order in which they went; flushed before the store drops them
 *   DIR/action/                  empty
 *
 * A copy is made beside its name and gets the name when it is whole, so a kill leaves no half ones.
 * Those that were made just before a kill are known by their headers, and not made again. A lock on
 * DIR/message keeps others out.
 *
 * Thread:   new, free: any one. Copies are made by a thread of its own; the store's `take` only asks.
 * Failure:  as faults: of `new` at once, of a copy at the next `take`, which tries again.
 */
#ifndef BROKER_ARCHIVE_H
#define BROKER_ARCHIVE_H

#include <qlog/options.h>

struct broker_archive;

Q_MUST_CHECK enum q_err broker_archive_new(
    const char *directory, struct broker_archive **ret_archive);
/* The store is closed. A copy under way is given up. NULL is fine. */
void broker_archive_free(struct broker_archive *archive);
/* For qlog_store_options. */
const struct qlog_archive *broker_archive_taker(const struct broker_archive *archive);

#endif /* BROKER_ARCHIVE_H */
