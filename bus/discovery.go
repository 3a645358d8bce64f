package bus

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// subscribeDiscovery answers PING, INFO and STATS of the NATS micro protocol.
func (s *service) subscribeDiscovery() error {
	verbs := map[micro.Verb]func() any{
		micro.PingVerb:  func() any { return micro.Ping{ServiceIdentity: s.identity(), Type: micro.PingResponseType} },
		micro.InfoVerb:  func() any { return s.info() },
		micro.StatsVerb: func() any { return s.stats() },
	}
	for verb, describe := range verbs {
		for _, who := range [][2]string{{"", ""}, {s.cfg.name, ""}, {s.cfg.name, s.id}} {
			subject, err := micro.ControlSubject(verb, who[0], who[1])
			if err != nil {
				return err
			}
			sub, err := s.cfg.conn.Subscribe(subject, func(m *nats.Msg) {
				if s.answerable(m.Reply) {
					body, _ := json.Marshal(describe()) // strings, numbers and times
					_ = s.cfg.conn.Publish(m.Reply, body)
				}
			})
			if err != nil {
				return err
			}
			s.discovery = append(s.discovery, sub)
		}
	}
	return nil
}

func (s *service) identity() micro.ServiceIdentity {
	return micro.ServiceIdentity{Name: s.cfg.name, ID: s.id, Version: s.cfg.version, Metadata: s.cfg.metadata}
}

func (s *service) info() micro.Info {
	i := micro.Info{ServiceIdentity: s.identity(), Type: micro.InfoResponseType, Description: s.cfg.description}
	for _, r := range s.running {
		i.Endpoints = append(i.Endpoints, micro.EndpointInfo{Name: r.name, Subject: r.subject, QueueGroup: s.cfg.queue})
	}
	return i
}

// stats tells what was done. Processing time is that of requests that had to
// wait; the others count as nothing.
func (s *service) stats() micro.Stats {
	out := micro.Stats{ServiceIdentity: s.identity(), Type: micro.StatsResponseType, Started: s.started}
	for _, r := range s.running {
		n, waited := r.requests.Load(), r.waited.Load()
		e := &micro.EndpointStats{
			Name: r.name, Subject: r.subject, QueueGroup: s.cfg.queue,
			NumRequests: int(n), NumErrors: int(r.errors.Load()),
			ProcessingTime: time.Duration(waited), AverageProcessingTime: time.Duration(waited / max(n, 1)),
		}
		if text := r.lastError.Load(); text != nil {
			e.LastError = *text
		}
		out.Endpoints = append(out.Endpoints, e)
	}
	return out
}
