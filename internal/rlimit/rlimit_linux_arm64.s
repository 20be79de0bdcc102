#include "textflag.h"

// func getrlimit(limit *[2]uint64) (errno uintptr)
TEXT ·getrlimit(SB), NOSPLIT, $0-16
	MOVD ZR, R0
	MOVD $7, R1    // RLIMIT_NOFILE
	MOVD ZR, R2
	MOVD limit+0(FP), R3
	MOVD $261, R8  // prlimit64
	SVC
	MOVD R0, errno+8(FP)
	RET
