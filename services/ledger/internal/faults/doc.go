// Package faults attacks the books: it kills their process and their database, fills their disk, cuts their connections, and lets many
// clients at them at once, and then looks at what is left of what they promised. It has tests only.
//
// What the books answered is recorded and compared with a model by a checker of linearizability (porcupine). A checker that finds nothing
// proves little by itself, so most attacks also run against books with a fault that was put there, and have to notice it.
package faults
