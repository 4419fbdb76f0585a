/*
 * label.h: directories of which everything is known: labelled images, and what a fault does to them.
 *
 * An image is made by a user who works and stops, cleanly or not. Where each frame lies and what is
 * in it is noted from the whole image. Held against a damaged copy, the label says which frames are
 * hit, what the newest durable mark on that copy is, and so what must be found: all other contents,
 * and rot below the mark, or a torn tail above it.
 *
 * Nothing in here asks the code under test, but for the decoders of blocks.
 */
#ifndef TESTS_PROOF_LABEL_H
#define TESTS_PROOF_LABEL_H

#include "user.h"

#include "format/block.h"

enum {
    LOGS_MAX = 2,
    FRAMES_MAX = 512,
    ITEMS_MAX = 32,
    OLDER_MAX = 4,
    SUBJECT_IDS_MAX = 32 /* the user's, and dead letters of its groups */
};

/* What a frame holds that a reader can be given. */
struct item {
    uint32_t
        subject;    /* of a store: the subject's id; label.subjects[id] is its index in the truth */
    uint64_t first; /* sequence; record number of a log */
    uint32_t count;
};

enum hit {
    HIT_NOT,
    HIT_PADDING, /* behind the body: no content */
    HIT_PAYLOAD,
    HIT_FATAL, /* header or records */
};

struct frame {
    char path[RAMDISK_PATH_MAX];
    uint64_t at; /* in the file */
    struct ql_frame header;
    uint64_t end; /* position */
    struct item items[ITEMS_MAX];
    unsigned item_count;
    enum hit hit; /* by the fault that is looked at */
};

struct labelled_log {
    char name[16];
    struct frame *frames; /* FRAMES_MAX, by position */
    unsigned frame_count;
    uint64_t end;
};

struct label {
    char name[64];
    bool store;
    bool clean;
    struct image image;            /* without files that are derived: logs alone tell everything */
    struct image indexed;          /* with them */
    struct image older[OLDER_MAX]; /* the same directory, earlier */
    unsigned older_count;
    struct truth truth;
    struct labelled_log logs[LOGS_MAX];
    unsigned log_count;
    unsigned subjects[SUBJECT_IDS_MAX]; /* SUBJECTS: not the user's */
    uint64_t state_hash;                /* of the store, when it was opened from this image */
    uint64_t generation;
};

/* What a fault did to one log. */
struct verdict_of_log {
    uint64_t mark;      /* newest durable mark on the damaged image */
    unsigned first_hit; /* frame; frame_count: none */
    bool rot;           /* frames below the mark are hit */
    bool torn;          /* the log ends early: at frame `cut` */
    unsigned cut;       /* frame_count: nowhere */
    bool blank;         /* at the cut it looks like never written: nothing has to be told */
    bool beyond;        /* behind the last frame lies something that may be called a torn tail */
    bool header;        /* a segment's header is hit */
};

enum label_kind {
    LABEL_SMALL,    /* one segment */
    LABEL_ROLLED,   /* several */
    LABEL_TRIMMED,  /* heads dropped, segments used again */
    LABEL_RECOVERED /* a torn tail was cut before, and what was behind it may lie there still */
};

void label_make(struct label *label, bool store, bool clean, enum label_kind kind, uint64_t seed);
void label_free(struct label *label);
/* Compare with a damaged copy: sets each frame's `hit`. Deep: payloads below the mark count. */
struct verdict_of_log label_judge(
    struct label *label, const struct image *damaged, unsigned log, bool deep);
/* A superblock copy that counts; false: there is none. */
/* The path of an index file. */
bool label_is_index(const char *path);
bool image_super(const struct image *image, struct ql_super *ret_super);

#endif /* TESTS_PROOF_LABEL_H */
