/*
 * segment/segment.h: one file of a log, and the ordered set of a log's files.
 *
 * Life of a segment (who moves it; what may be trusted):
 *
 *   from -> to        by                          trusted
 *   –      -> SPARE   ql_segment_create()         its space
 *   SPARE  -> ACTIVE  ql_segment_activation()     header; frames below the log's marks
 *   ACTIVE -> SEALED  the log, behind a SEAL frame that is durable     everything up to `end`
 *   SEALED -> SPARE   ql_segment_recycle()        its space
 *
 * Names are segment-NNNNNN with a number that is free; identity (log, base, incarnation) is in the
 * header, so that going on to the next segment needs no change to the directory.
 *
 * Thread: the owner of the directory.
 */
#ifndef QL_SEGMENT_SEGMENT_H
#define QL_SEGMENT_SEGMENT_H

#include "format/block.h"
#include "segment/env.h"

enum ql_segment_state {
    QL_SEGMENT_SPARE,
    QL_SEGMENT_ACTIVE,
    QL_SEGMENT_SEALED
};

struct ql_segment {
    enum ql_segment_state state;
    int file;
    uint32_t number; /* in its name */
    uint64_t file_size;
    uint64_t incarnation;
    uint64_t base;
    uint64_t end;   /* SEALED: position behind its last frame */
    uint64_t chain; /* header hash of the frame before its first */
    uint64_t
        opened_ms;   /* wall time when it came into use: not before the last message ahead of it */
    uint64_t zeroed; /* file offset up to which it was written once; see segment/zero.h */
    bool mended;     /* it is what its frames say; the header on the disk says something else */
    bool doubtful;   /* frames contradict the header, or another file has the same */
    unsigned pins;   /* reads under way */
};

/* What the frames in a file say about it. */
struct ql_segment_survey {
    uint64_t fitting;     /* frames that say the same as the header */
    uint64_t count;       /* frames of the newest use; 0: there is no frame */
    uint64_t incarnation; /* of that use, as all that follows */
    uint64_t base;
    uint64_t chain;
    uint64_t wall_ms; /* of the first of them */
};

struct ql_segment_set {
    struct ql_segment **segments; /* in use, by base */
    uint32_t count;
    uint32_t capacity;
};

/* First position that is not in the segment's file. */
static inline uint64_t
ql_segment_limit(const struct ql_segment *segment)
{
    return segment->base + (segment->file_size - QL_BLOCK);
}

/* Byte of the file where `position` lies. */
static inline uint64_t
ql_segment_offset(const struct ql_segment *segment, uint64_t position)
{
    return QL_BLOCK + (position - segment->base);
}

/* Path of a segment of `log` by its number; returns `out`. */
const char *ql_segment_path(
    const struct ql_env *env, const char *log, uint32_t number, char out[QL_PATH_MAX]);

/* Make a spare: space really there, header durable, name durable. */
Q_MUST_CHECK enum q_err ql_segment_create(
    struct ql_env *env,
    const char *log,
    uint32_t number,
    uint64_t incarnation,
    uint64_t file_size,
    struct ql_segment **ret_segment);
/*
 * Open the file and read its header. Q_OK; Q_NOT_FOUND: no header of this directory and log there
 * (a half-made spare), or, for a reader, no file any more; failures.
 */
Q_MUST_CHECK enum q_err ql_segment_open(
    struct ql_env *env, const char *log, uint32_t number, struct ql_segment **ret_segment);
/*
 * The same file through another way to the kernel, `env->io`, to read it only. Q_OK; Q_NOT_FOUND: it
 * is gone; failures.
 */
Q_MUST_CHECK enum q_err ql_segment_reopen(
    struct ql_env *env,
    const char *log,
    const struct ql_segment *segment,
    struct ql_segment **ret_segment);
/*
 * Read all of the file. For a header that may be another file's, or of an earlier time: frames of
 * this file don't lie. Q_OK; Q_E_NOMEM; Q_E_IO: not all of it could be read. A tool is told what could.
 */
Q_MUST_CHECK enum q_err ql_segment_survey(
    struct ql_env *env,
    const struct ql_segment *segment,
    const char *log,
    struct ql_segment_survey *ret_survey);
/* Be what the frames say, not what the header says. */
void ql_segment_become(
    struct ql_env *env,
    struct ql_segment *segment,
    const char *log,
    const struct ql_segment_survey *survey);
/* Whose it is, by its header alone. False: the header does not tell, or another log's. */
bool ql_segment_peek(
    struct ql_env *env, const char *log, uint32_t number, uint8_t ret_store_id[16]);
/* Closes the file. No pins. NULL is fine. */
void ql_segment_free(struct ql_env *env, struct ql_segment *segment);
/* The header block that makes a spare the segment with this base. `block` is aligned memory. */
void ql_segment_activation(
    const struct ql_env *env, const struct ql_segment *segment, const char *log, uint8_t *block);

/* Write that block and wait until it is flushed. */
Q_MUST_CHECK enum q_err ql_segment_write_header(
    struct ql_env *env, const struct ql_segment *segment, const char *log);
/* Make a spare of a segment that is in use no more: its frames become stale by the new number. */
Q_MUST_CHECK enum q_err ql_segment_recycle(
    struct ql_env *env, struct ql_segment *segment, const char *log, uint64_t incarnation);

/* It is being read: it is neither written anew nor deleted. */
void ql_segment_pin(struct ql_segment *segment);
void ql_segment_unpin(struct ql_segment *segment);

/* Add one in use, at its place. */
Q_MUST_CHECK enum q_err ql_segment_set_add(struct ql_segment_set *set, struct ql_segment *segment);
/* The segment whose range holds `position`; NULL when it is before the first. */
struct ql_segment *ql_segment_set_find(const struct ql_segment_set *set, uint64_t position);
/* The first segment whose base is above `position`; NULL when there is none. */
struct ql_segment *ql_segment_set_next(const struct ql_segment_set *set, uint64_t position);
void ql_segment_set_free(struct ql_env *env, struct ql_segment_set *set);

#endif /* QL_SEGMENT_SEGMENT_H */
