/*
 * segment/identify.h: which file of a log is which segment.
 *
 * Names of files are hints, headers say what a file is, and where a header can't be right, because
 * another file has the same or its own frames contradict it, the frames decide.
 *
 * Thread: the owner of the directory. Blocking: all of it.
 */
#ifndef QL_SEGMENT_IDENTIFY_H
#define QL_SEGMENT_IDENTIFY_H

#include "segment/log.h"

/*
 * Open all files of the log, into its segments and spares. What lies below `first`, where the log
 * begins, was dropped: its file goes, like that of a spare too many. Sets `number_next`, raises
 * `incarnation`.
 */
Q_MUST_CHECK enum q_err ql_log_open_segments(struct ql_log *log, uint64_t first);

/* Whether a header of any file tells whose the log is. */
bool ql_segments_peek(struct ql_env *env, const char *log, uint8_t ret_store_id[16]);

/* Remove a file, and say so. Nothing, for a reader. */
void ql_segment_discard(struct ql_env *env, const char *log, uint32_t number, const char *why);

#endif /* QL_SEGMENT_IDENTIFY_H */
