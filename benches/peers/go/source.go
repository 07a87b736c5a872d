package main

import (
	"context"
	"runtime"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// source follows the Workload API of the Rust program.
func (w *work) source() (*workloadapi.X509Source, error) {
	address := workloadapi.WithClientOptions(workloadapi.WithAddr(w.Address))
	return workloadapi.NewX509Source(context.Background(), address)
}

// sources gives the bytes that so many further sources hold, or the nanoseconds of CPU time of one of so many updates.
func (w *work) sources() (float64, error) {
	first, err := w.source()
	if err != nil {
		return 0, err
	}
	if w.Kind == "source-heap" {
		before := live()
		further := make([]*workloadapi.X509Source, w.Times)
		for i := range further {
			if further[i], err = w.source(); err != nil {
				return 0, err
			}
		}
		held := live() - before
		runtime.KeepAlive(first)
		runtime.KeepAlive(further)
		return float64(held), nil
	}
	begin, err := cpuTime()
	if err != nil {
		return 0, err
	}
	for range w.Times {
		<-first.Updated()
	}
	end, err := cpuTime()
	return float64((end - begin).Nanoseconds()) / float64(w.Times), err
}

// live is what the heap holds after a collection, and the stacks of goroutines.
func live() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse)
}
