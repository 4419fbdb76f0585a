/*
 * fault.h: one fault at random in a directory of which everything is known: bits, sectors and blocks that
 * are wrong, zero, old, in the wrong place or missing, in any kind of file.
 */
#ifndef TESTS_PROOF_FAULT_H
#define TESTS_PROOF_FAULT_H

#include "label.h"
#include "random.h"

/* A copy of the label's image that is not the same any more. What was done stands in `what`. */
void fault_make(
    const struct label *label,
    struct random_source *random,
    struct image *ret_image,
    char *what,
    size_t what_size);

#endif /* TESTS_PROOF_FAULT_H */
