/*
 * programs: where the agents' programs, their modules and the test guest are: beside the program that asks.
 */
#ifndef HIKAE_DEMO_PROGRAMS_H
#define HIKAE_DEMO_PROGRAMS_H

/* The folder that this program is in: the other programs are there too, in a build tree and when installed. Static. */
const char *programs_dir(void);
/* A build tree has its modules in lib/ beside bin/; an installed program finds its own. */
void programs_find_modules(const char *bin);
/* The guest of a build tree. Static. */
const char *programs_guest(const char *bin);

#endif
